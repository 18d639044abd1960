# SPDX-License-Identifier: Apache-2.0
"""Weights as tensor-core kernels read them: laid out again at compile time.

A kernel that wants its weights in another order takes them in place of the packed ones and says so
in its attribute `PREPARED`; whoever holds the constants calls `prepare`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xnortvm._tvm import tirx

#: Attribute of a kernel: the `WeightLayout` of one of its parameters.
PREPARED = "xnortvm.cuda.weights"


#: The channels of 16 rows. A lane t holds columns 8j + 2t and 8j + 2t + 1 of a product of `mma` or
#: `wgmma`; in this order, two such pairs are four neighbouring channels: a vector in memory.
LANES = tuple(4 * (c % 8 // 2) + c // 8 * 2 + c % 2 for c in range(16))


@dataclass(frozen=True)
class WeightLayout:
    """How weights (O, KH, KW, words) are laid out.

    Rows are output channels and hold all words of K, filled up with 0; the rows of each group are
    filled up to whole tiles of channels. Of each 16 channels, rows are in the order `LANES`.

    Attributes
    ----------
    param : int
        Number of the parameter.
    groups : int
    outputs : int
        Channels of a group, filled up: a multiple of the tile, and of 16.
    words : int
        Words of a row, filled up: a multiple of ``chunk``.
    chunk : int
        0: rows lie one after the other. Else the words of a row are cut into chunks of so many,
        and a tile of rows holds chunk after chunk: (groups, outputs / tile, words / chunk, tile,
        chunk).
    tile : int
        Rows of a tile, where ``chunk`` is not 0.
    swizzled : bool
        Whether the 16 bytes c of row r of a chunk lie where c xor r % 8 would: `wgmma`'s 128B
        swizzle, for chunks of 128 bytes.
    counts : bool
        Whether the parameter is followed by the number of bits 1 of each channel, (groups ·
        outputs,) int32, in the order of channels.
    base : int
        Number of a parameter (…, O) int32 from which twice the bits 1 of each channel are
        subtracted, so that ``base − 2·count`` is right without them in the count; −1: none.
    order : tuple of int
        Which word of K each of the ``words`` is, −1 for 0; empty: they lie in K's own order.
    """

    param: int
    groups: int
    outputs: int
    words: int
    chunk: int = 0
    tile: int = 0
    swizzled: bool = False
    counts: bool = False
    base: int = -1
    order: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weights, uint32."""
        if not self.chunk:
            return self.groups * self.outputs, self.words
        tiles, chunks = self.outputs // self.tile, self.words // self.chunk
        return self.groups, tiles, chunks, self.tile, self.chunk

    def to_json(self) -> str:
        """Return the attribute of a kernel."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WeightLayout:
        """Read the attribute of a kernel."""
        values: dict[str, Any] = json.loads(text)
        return cls(**{**values, "order": tuple(values["order"])})


def prepare(weights: NDArray[np.uint32], layout: WeightLayout) -> list[NDArray[Any]]:
    """Return the arrays that replace packed weights (O, KH, KW, words) or (O, words)."""
    rows = weights.reshape(layout.groups, -1, int(np.prod(weights.shape[1:])))
    if layout.order:
        order = np.array(layout.order)
        rows = np.where(order >= 0, rows[..., order], np.uint32(0))
    _, outputs, words = rows.shape
    filled = np.zeros((layout.groups, layout.outputs, layout.words), np.uint32)
    filled[:, :outputs, :words] = rows
    lanes = filled.reshape(layout.groups, -1, len(LANES), layout.words)[:, :, LANES]
    arrays: list[NDArray[Any]] = [np.ascontiguousarray(_ordered(lanes, layout))]
    if layout.counts:
        counts = np.unpackbits(filled.view(np.uint8), axis=-1).sum(-1, dtype=np.int32)
        arrays.append(counts.reshape(-1))
    return arrays


def without_bits(base: NDArray[np.int32], weights: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Return the constants that replace the parameter `WeightLayout.base`."""
    rows = weights.reshape(len(weights), -1)
    return base - 2 * np.bitwise_count(rows).sum(-1, dtype=np.int32)


def _ordered(filled: NDArray[np.uint32], layout: WeightLayout) -> NDArray[np.uint32]:
    if not layout.chunk:
        return filled.reshape(layout.shape)
    groups, tiles, chunks, tile, chunk = layout.shape
    ordered = filled.reshape(groups, tiles, tile, chunks, chunk).transpose(0, 1, 3, 2, 4)
    if not layout.swizzled:
        return ordered
    pieces = ordered.reshape(*ordered.shape[:-1], 8, 4)
    row = np.arange(tile)[:, None]
    return pieces[..., row, np.arange(8) ^ row % 8, :].reshape(layout.shape)


class Signature(NamedTuple):
    """What a function becomes that takes prepared weights.

    Attributes
    ----------
    params : list
        Variables and buffers.
    weights, counts : tirx.Buffer
        The prepared weights, and the bits 1 of each channel, None without.
    attrs : dict
        Attributes of the function, `PREPARED` among them.
    """

    params: list[Any]
    weights: Any
    counts: Any
    attrs: dict[str, Any]


def taking(func: Any, layout: WeightLayout) -> Signature:
    """Return the signature of a function with its parameter of packed weights replaced."""
    weights = tirx.decl_buffer(layout.shape, "uint32", str(func.params[layout.param].name))
    rows = layout.groups * layout.outputs
    counts = tirx.decl_buffer((rows,), "int32", "weight_bits") if layout.counts else None
    params = list(func.params)
    taken = [weights] if counts is None else [weights, counts]
    params[layout.param : layout.param + 1] = taken
    attrs = {**(func.attrs or {}), PREPARED: layout.to_json()}
    return Signature(params, weights, counts, attrs)

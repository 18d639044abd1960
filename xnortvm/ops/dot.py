# SPDX-License-Identifier: Apache-2.0
"""The packed dot product inside `bconv2d` and `bdense`: counts of differing bits.

Three forms, chosen by `form_of`:

======  ===========================================  ===================  ==========
form    one step                                     summed in            for
======  ===========================================  ===================  ==========
word    popcount of 32 bits: xor, vpopcntd, add      words                VPOPCNTDQ
byte    popcount of each byte of 32 bits             bytes, then words    everything
table   4 bits are looked up: vpshufb, add           bytes, then words    AVX2, AVX-512
======  ===========================================  ===================  ==========

The table form turns the popcount round. Row a of a table holds popcount(a xor w) for the 16 values
of w; four activation bits select the row, and ``vpshufb`` looks up four weight bits of every lane
in it: two instructions for 4 bits in each *byte* lane, where xor, byte popcount and add take
eight for 32 bits in each *word* lane. That is half as many instructions for a bit; the price is
weights of half the density (4 bits in a byte) and activations spread to bytes. It pays where
several pixels share a vector of weights, which is why dense layers use the other forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xnortvm._tvm import te, tirx
from xnortvm.ops.channels import blocked_weight, padded_vectors
from xnortvm.ops.intrinsics import MAX_BYTE_WORDS, popcount_bytes, sum_bytes, table_popcount
from xnortvm.ops.layout import WORD

if TYPE_CHECKING:
    from xnortvm.schedules.isa import Isa

NIBBLE = 4
#: Lookups that a byte lane can add up: 63 · 4 = 252.
MAX_LOOKUPS = 63
#: Lanes of nothing are tolerated up to this many times the vectors that the byte form needs.
_MOST_PADDING = 1.5


@dataclass(frozen=True)
class Form:
    """How differing bits are counted.

    Attributes
    ----------
    name : str
        ``"word"``, ``"byte"`` or ``"table"``.
    lanes : int
        Output channels of one vector.
    bits : int
        Channels that one step of the reduction takes.
    limit : int or None
        Steps that the narrow lanes can add up; None where lanes are words.
    masked : bool
        Whether differing bits count only where a mask has ones: weights that are 0.
    """

    name: str
    lanes: int
    bits: int
    limit: int | None
    masked: bool = False

    def steps(self, channels: int) -> int:
        """Return the steps for the channels of one group at one position of the kernel."""
        return -(-channels // self.bits)


def form_of(isa: Isa, outputs: int, groups: int, pixels: int, *, masked: bool = False) -> Form:
    """Return the fastest form for a layer.

    Parameters
    ----------
    outputs, groups : int
        Output channels and groups.
    pixels : int
        Positions of the output map.
    masked : bool
        Whether weights are 0: a table has no room for them.
    """
    lanes = isa.vector_bits // 8
    if isa.table and not masked and groups == 1 and pixels > 1:
        wide, narrow = (padded_vectors(outputs, n) * n for n in (lanes, isa.lanes))
        if wide <= _MOST_PADDING * narrow:
            return Form("table", lanes, NIBBLE, MAX_LOOKUPS)
    if isa.popcount == "word":
        return Form("word", isa.lanes, WORD, None, masked)
    return Form("byte", isa.lanes, WORD, MAX_BYTE_WORDS, masked)


def kernel_weights(packed: NDArray[np.uint32], channels: int, form: Form) -> list[NDArray[Any]]:
    """Return the constants of a kernel made of packed weights.

    Parameters
    ----------
    packed : (O, ..., ceil(C / 32)) uint32
        Bit 1 is −1; as many words again for a masked form.
    channels : int
        C, input channels of one group.

    Returns
    -------
    list of ndarray
        The weights blocked for the lanes of the form; for tables (``uint8``, one nibble in a
        byte), the table as well: row a, of ``lanes`` bytes, holds popcount(a xor w) for
        w = 0 … 15, again and again, since ``vpshufb`` looks up within 16 bytes; for masked forms
        the masks as well, blocked like the weights.
    """
    if form.masked:
        return [blocked_weight(half, form.lanes) for half in np.split(packed, 2, axis=-1)]
    if form.name != "table":
        return [blocked_weight(packed, form.lanes)]
    shifts = np.arange(0, WORD, NIBBLE, dtype=np.uint32)
    nibbles = (packed[..., None] >> shifts) & np.uint32(15)
    nibbles = nibbles.reshape(*packed.shape[:-1], -1)[..., : form.steps(channels)]
    counts = [[(a ^ w).bit_count() for w in range(16)] for a in range(16)]
    table = np.tile(np.array(counts, np.uint8), form.lanes // 16)
    return [blocked_weight(nibbles.astype(np.uint8), form.lanes), table.reshape(-1)]


def spread(x: Any, channels: int, groups: int, form: Form) -> Any:
    """Return the activations as the form reads them: words, or offsets of table rows.

    Parameters
    ----------
    x : te.Tensor
        (..., G · ceil(C / 32)) uint32.
    channels : int
        C, of one group.

    Returns
    -------
    te.Tensor
        x itself; for tables (..., ceil(C / 4)) uint8, row numbers times the row's bytes / 8: what
        an address is computed from without a shift.
    """
    if form.name != "table":
        return x
    *lead, _ = x.shape
    scale = form.lanes // 8

    def row(*index: Any) -> Any:
        word, nibble = tirx.floordiv(index[-1], 8), tirx.floormod(index[-1], 8)
        bits = x(*index[:-1], word) >> (nibble * NIBBLE).astype("uint32")
        return ((bits & tirx.const(15, "uint32")) * tirx.const(scale, "uint32")).astype("uint8")

    shape = (*lead, groups * form.steps(channels))
    return te.compute(shape, row, name="rows", attrs={"xnortvm.op": "rows"})


def differing(weights: Sequence[Any], form: Form, isa: Isa, a: Any, place: Sequence[Any]) -> Any:
    """Return the count of differing bits of one step, in the lanes of the form.

    Parameters
    ----------
    weights : sequence of te.Tensor
        What `kernel_weights` returned.
    a : expression
        One element of the `spread` activations.
    place : sequence of expression
        Where in the weights its partner is, the lane last.
    """
    w = weights[0](*place)
    if form.name != "table":
        bits = (a ^ w) & weights[1](*place) if form.masked else a ^ w
        return tirx.popcount(bits) if form.name == "word" else popcount_bytes(bits)
    row = weights[1][a.astype("int32") * 8 + place[-1]]
    return table_popcount(row, w, a, scale=form.lanes // 8, flavour=isa.table)


def split_reduction(extents: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Split each reduction axis evenly into (chunks, steps): as few chunks as ``limit`` allows.

    Of equals the one whose last axes are whole.

    Examples
    --------
    >>> split_reduction([3, 3, 4], 31)
    [(3, 1), (1, 3), (1, 4)]
    >>> split_reduction([3, 3, 128], 63)
    [(3, 1), (1, 3), (8, 16)]
    """
    choices = [[size for size in range(1, extent + 1) if extent % size == 0] for extent in extents]
    fitting = (sizes for sizes in product(*choices) if prod(sizes) <= limit)
    best = max(fitting, key=lambda sizes: (prod(sizes), sizes[::-1]))
    return [(extent // size, size) for extent, size in zip(extents, best, strict=True)]


def differing_bits(
    shape: Sequence[int],
    extents: Sequence[int],
    step: Callable[[Sequence[Any], Sequence[Any]], Any],
    form: Form,
    isa: Isa,
    op: str,
) -> Any:
    """Return the tensor of summed popcounts.

    Parameters
    ----------
    shape : sequence of int
        Shape of the result, channels last.
    extents : sequence of int
        The reduction: steps in each of its axes.
    step : callable
        From the indices of the result and of the reduction to `differing`.
    form : Form
        Decides between counts in words and counts in byte lanes.
    op : str
        Block attribute "xnortvm.op".

    Notes
    -----
    Byte lanes are cut into chunks that cannot overflow (``bytes``); chunks are added up in wider
    lanes (``count``): the four bytes of a word, or each byte on its own.
    """
    attrs = {"xnortvm.op": op, "xnortvm.form": form.name, "xnortvm.lanes": form.lanes}
    if form.limit is None:
        axes = [te.reduce_axis((0, extent), f"r{i}") for i, extent in enumerate(extents)]
        return te.compute(
            shape, lambda *index: te.sum(step(index, axes), axis=axes), name="count", attrs=attrs
        )
    split = split_reduction(extents, form.limit)
    inner = [te.reduce_axis((0, size), f"r{i}") for i, (_, size) in enumerate(split)]
    cut = [i for i, (chunks, _) in enumerate(split) if chunks > 1]

    def chunk(*index: Any) -> Any:
        outer = dict(zip(cut, index[len(shape) :], strict=True))
        at = [outer[i] * split[i][1] + axis if i in outer else axis for i, axis in enumerate(inner)]
        return te.sum(step(index[: len(shape)], at), axis=inner)

    chunks = [split[i][0] for i in cut]
    by_bytes = te.compute(
        (*shape, *chunks), chunk, name="bytes", attrs={**attrs, "xnortvm.op": f"{op}.bytes"}
    )
    wide = "uint16" if prod(extents) * form.bits < 1 << 16 else "uint32"

    def widened(*index: Any) -> Any:
        value = by_bytes(*index)
        return value.astype(wide) if form.name == "table" else sum_bytes(value, isa.sum_bytes)

    if not cut:
        return te.compute(shape, widened, name="count", attrs=attrs)
    outer = [te.reduce_axis((0, size), f"q{i}") for i, size in enumerate(chunks)]
    return te.compute(
        shape,
        lambda *index: te.sum(widened(*index, *outer), axis=outer),
        name="count",
        attrs=attrs,
    )

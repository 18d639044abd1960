# SPDX-License-Identifier: Apache-2.0
"""The packed dot product inside `bconv2d` and `bdense`: counts of differing bits.

Five forms, chosen by `form_of`:

========  ===========================================  ===================  ==============
form      one step                                     summed in            for
========  ===========================================  ===================  ==============
word      popcount of 32 bits: xor, vpopcntd, add      words                VPOPCNTDQ
byte      popcount of each byte of 32 bits             bytes, then words    everything
table     4 bits are looked up: vpshufb, add           bytes, then words    AVX2, AVX-512
pairwise  128 bits of 8 channels: cnt, addp, uadalp    16 bits              AArch64
paired    the same, 64 bits of two pixels              bytes, then 16 bits  AArch64, 64 ch.
========  ===========================================  ===================  ==============

The table form turns the popcount round. Row a of a table holds popcount(a xor w) for the 16 values
of w; four activation bits select the row, and ``vpshufb`` looks up four weight bits of every lane
in it: two instructions for 4 bits in each *byte* lane, where xor, byte popcount and add take
eight for 32 bits in each *word* lane. That is half as many instructions for a bit; the price is
weights of half the density (4 bits in a byte) and activations spread to bytes. It pays where
several pixels share a vector of weights, which is why dense layers use the other forms.

The pairwise forms lay out a vector along the input channels of one output channel instead of along
output channels, see `intrinsics_pairwise`. Taps of a kernel row whose pixels lie side by side are
one run of words for them: 3 taps of 96 channels are 288 bits, or three steps, the last of which
reads on into the next pixel and is masked.

Kernels for GPUs are templates, which read weights as they are packed: the form ``plain``, whose
sum is `xnortvm.ops.problem.sum_te`.
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
from xnortvm.ops.intrinsics_pairwise import (
    CHANNELS,
    WORDS,
    paired_popcount,
    pairwise_popcount,
)
from xnortvm.ops.layout import WORD, words

if TYPE_CHECKING:
    from xnortvm.schedules.isa import Isa

NIBBLE = 4
#: Lookups that a byte lane can add up: 63 · 4 = 252.
MAX_LOOKUPS = 63
#: Vectors of 128 bits that a lane of 16 bits can add up: 511 · 128 = 65408.
MAX_VECTORS = 511
#: Half vectors that a byte lane can add up: 3 · 64 = 192.
MAX_HALVES = 3
#: Lanes of nothing are tolerated up to this many times the vectors that the byte form needs.
_MOST_PADDING = 1.5
#: How full vectors have to be: the byte form takes 1.2 to 1.35 times as long as the pairwise form.
_LEAST_FILLED = 0.85


@dataclass(frozen=True)
class Form:
    """How differing bits are counted.

    Attributes
    ----------
    name : str
        ``"word"``, ``"byte"``, ``"table"``, ``"pairwise"``, ``"paired"`` or ``"plain"``.
    lanes : int
        Output channels of one vector.
    bits : int
        Channels that one step of the reduction takes.
    limit : int or None
        Steps that the narrow lanes can add up; None where lanes are words.
    masked : bool
        Whether differing bits count only where a mask has ones: weights that are 0.
    taps : int
        Taps of a kernel row that are read as one run of words.
    """

    name: str
    lanes: int
    bits: int
    limit: int | None
    masked: bool = False
    taps: int = 1

    @property
    def elements(self) -> int:
        """Neighbouring elements of the `spread` activations that one step reads."""
        return WORDS if self.name in ("pairwise", "paired") else 1

    @property
    def pixels(self) -> int:
        """Neighbouring pixels that one step counts for."""
        return 2 if self.name == "paired" else 1

    def steps(self, channels: int) -> int:
        """Return the steps for the channels of one group at `taps` positions of the kernel."""
        if self.name == "pairwise":
            return -(-self.taps * words(channels) // WORDS)
        return -(-channels // self.bits)

    def tail(self, channels: int) -> int:
        """Return the words of the last step that belong to no tap of it."""
        if self.name != "pairwise":
            return 0
        return self.steps(channels) * WORDS - self.taps * words(channels)


@dataclass(frozen=True)
class Shape:
    """What `form_of` has to know of a layer.

    Attributes
    ----------
    channels : int
        Input channels of one group.
    outputs, groups : int
        Output channels and groups.
    pixels : int
        Positions of the output map.
    taps : int
        Taps of a kernel row that lie side by side: 1 where they are dilated.
    stride : int
        Columns from one output to the next.
    masked : bool
        Whether weights are 0: a table has no room for them.
    """

    channels: int
    outputs: int
    groups: int = 1
    pixels: int = 1
    taps: int = 1
    stride: int = 1
    masked: bool = False


def form_of(isa: Isa, shape: Shape) -> Form:
    """Return the fastest form for a layer."""
    lanes, masked = isa.vector_bits // 8, shape.masked
    if isa.popcount == "plain":
        return Form("plain", 1, WORD, None, masked)
    form = _whole_vectors(shape) if isa.pairwise else None
    if form is not None:
        return form
    if isa.table and not masked and shape.groups == 1 and shape.pixels > 1:
        wide, narrow = (padded_vectors(shape.outputs, n) * n for n in (lanes, isa.lanes))
        if wide <= _MOST_PADDING * narrow:
            return Form("table", lanes, NIBBLE, MAX_LOOKUPS)
    if isa.popcount == "word":
        return Form("word", isa.lanes, WORD, None, masked)
    return Form("byte", isa.lanes, WORD, MAX_BYTE_WORDS, masked)


def _whole_vectors(shape: Shape) -> Form | None:
    """Return the pairwise form of a layer, None where vectors would be too empty."""
    count, bits = words(shape.channels), WORDS * WORD
    if shape.groups > 1:
        if count % WORDS or shape.outputs // shape.groups % CHANNELS:
            return None  # a vector of another group
        return Form("pairwise", CHANNELS, bits, MAX_VECTORS, shape.masked)
    if 2 * count == WORDS and shape.pixels > 1 and shape.stride == 1 and not shape.masked:
        return Form("paired", CHANNELS, bits // 2, MAX_HALVES)
    form = Form("pairwise", CHANNELS, bits, MAX_VECTORS, shape.masked, shape.taps)
    filled = shape.taps * count / (form.steps(shape.channels) * WORDS)
    alone = shape.pixels == 1 and shape.taps == 1  # a row of a matrix has no next pixel
    return None if filled < _LEAST_FILLED or (alone and filled < 1) else form


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
    if form.name == "plain":
        return [packed]
    halves = np.split(packed, 2, axis=-1) if form.masked else [packed]
    if form.name == "paired":
        return [_blocked_vectors(np.tile(packed, 2), form.lanes)]
    if form.name == "pairwise":
        arrays = [_blocked_vectors(_runs(half, channels, form), form.lanes) for half in halves]
        return (
            arrays if form.masked or not form.tail(channels) else [*arrays, _tail(channels, form)]
        )
    if form.name != "table":
        return [blocked_weight(half, form.lanes) for half in halves]
    shifts = np.arange(0, WORD, NIBBLE, dtype=np.uint32)
    nibbles = (packed[..., None] >> shifts) & np.uint32(15)
    nibbles = nibbles.reshape(*packed.shape[:-1], -1)[..., : form.steps(channels)]
    counts = [[(a ^ w).bit_count() for w in range(16)] for a in range(16)]
    table = np.tile(np.array(counts, np.uint8), form.lanes // 16)
    return [blocked_weight(nibbles.astype(np.uint8), form.lanes), table.reshape(-1)]


def _runs(packed: NDArray[np.uint32], channels: int, form: Form) -> NDArray[np.uint32]:
    """Return weights whose neighbouring taps are one run, padded to whole vectors."""
    *lead, count = packed.shape
    if len(lead) > 1:
        packed = packed.reshape(*lead[:-1], lead[-1] // form.taps, form.taps * count)
    return np.pad(packed, [(0, 0)] * (packed.ndim - 1) + [(0, form.tail(channels))])


def _tail(channels: int, form: Form) -> NDArray[np.uint32]:
    """Return the mask (steps, 4) of the activations that belong to the taps of a run."""
    mask = np.full(form.steps(channels) * WORDS, 0xFFFFFFFF, np.uint32)
    mask[-form.tail(channels) :] = 0
    return mask.reshape(-1, WORDS)


def _blocked_vectors(packed: NDArray[np.uint32], lanes: int) -> NDArray[np.uint32]:
    """Return packed weights (O, ..., words) as (blocks, ..., steps, lanes, 4)."""
    vectors = packed.reshape(*packed.shape[:-1], -1, WORDS)
    return np.ascontiguousarray(blocked_weight(vectors, lanes).swapaxes(-1, -2))


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


def differing(
    weights: Sequence[Any], form: Form, isa: Isa, elements: Sequence[Any], place: Sequence[Any]
) -> Any:
    """Return the count of differing bits of one step, in the lanes of the form.

    Parameters
    ----------
    weights : sequence of te.Tensor
        What `kernel_weights` returned.
    elements : sequence of expression
        `Form.elements` of the `spread` activations.
    place : sequence of expression
        Where in the weights its partner is, the lane last.
    """
    if form.elements > 1:
        return _differing_vectors(weights, form, isa, elements, place)
    (a,), w = elements, weights[0](*place)
    if form.name != "table":
        bits = (a ^ w) & weights[1](*place) if form.masked else a ^ w
        return tirx.popcount(bits) if form.name == "word" else popcount_bytes(bits)
    row = weights[1][a.astype("int32") * 8 + place[-1]]
    return table_popcount(row, w, a, scale=form.lanes // 8, flavour=isa.table)


def _differing_vectors(
    weights: Sequence[Any], form: Form, isa: Isa, elements: Sequence[Any], place: Sequence[Any]
) -> Any:
    w = [weights[0](*place, word) for word in range(WORDS)]
    if form.name == "paired":
        return paired_popcount(elements, w, flavour=isa.pairwise)
    step, mask = place[-2], []
    if form.masked:
        mask = [weights[1](*place, word) for word in range(WORDS)]
    elif len(weights) > 1:
        elements = [a & weights[1](step, word) for word, a in enumerate(elements)]
    return pairwise_popcount(elements, w, mask, flavour=isa.pairwise)


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
    if form.pixels > 1:  # two pixels in a lane are always taken apart
        cut = cut or [0]
        shape = (*shape[:-2], shape[-2] // form.pixels, shape[-1])

    def chunk(*index: Any) -> Any:
        outer = dict(zip(cut, index[len(shape) :], strict=True))
        at = [outer[i] * split[i][1] + axis if i in outer else axis for i, axis in enumerate(inner)]
        return te.sum(step(_first_pixel(index[: len(shape)], form), at), axis=inner)

    chunks = [split[i][0] for i in cut]
    by_bytes = te.compute(
        (*shape, *chunks), chunk, name="bytes", attrs={**attrs, "xnortvm.op": f"{op}.bytes"}
    )
    wide = "uint16" if prod(extents) * form.bits < 1 << 16 else "uint32"
    if not cut:
        return te.compute(
            shape, lambda *i: _widened(by_bytes, i, form, isa, wide), name="count", attrs=attrs
        )
    outer = [te.reduce_axis((0, size), f"q{i}") for i, size in enumerate(chunks)]
    return te.compute(
        (*shape[:-2], shape[-2] * form.pixels, shape[-1]),
        lambda *index: te.sum(_widened(by_bytes, (*index, *outer), form, isa, wide), axis=outer),
        name="count",
        attrs=attrs,
    )


def _first_pixel(index: Sequence[Any], form: Form) -> Sequence[Any]:
    if form.pixels == 1:
        return index
    *lead, column, channel = index
    return [*lead, column * form.pixels, channel]


def _widened(chunks: Any, index: Sequence[Any], form: Form, isa: Isa, wide: str) -> Any:
    """Return the sum of one chunk, for one pixel and channel, in lanes of ``wide``."""
    if form.name == "byte":
        return sum_bytes(chunks(*index), isa.sum_bytes)
    if form.pixels == 1:
        return chunks(*index).astype(wide)
    n, row, column, *rest = index
    counts = chunks(n, row, tirx.floordiv(column, 2), *rest)
    shift = (tirx.floormod(column, 2) * 8).astype("uint16")
    return ((counts >> shift) & tirx.const(255, "uint16")).astype(wide)


def twice(count: Any, index: Sequence[Any], total: int) -> Any:
    """Return 2 · count as int32, doubled in 16-bit lanes where 2 · total fits them."""
    value = count(*index)
    if str(count.dtype) == "uint16" and 2 * total < 1 << 16:
        return (value * tirx.const(2, "uint16")).astype("int32")
    return tirx.const(2, "int32") * value.astype("int32")

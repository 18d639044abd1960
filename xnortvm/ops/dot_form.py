# SPDX-License-Identifier: Apache-2.0
"""How the packed dot product counts differing bits: its forms, and which one a layer gets.

Five forms:

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

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xnortvm.ops.channels import padded_vectors
from xnortvm.ops.intrinsics import MAX_BYTE_WORDS
from xnortvm.ops.intrinsics_pairwise import CHANNELS, WORDS
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

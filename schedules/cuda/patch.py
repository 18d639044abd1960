# SPDX-License-Identifier: Apache-2.0
"""How a direct convolution cuts its input, so that every tap is the same memory at another start.

*Positions* count the output pixels of all images one after the other, rows and images with a margin
behind them. Between two rows there is only as much margin as one of them needs: the zeros on the
right of a row are those on the left of the next.

Along a row the input is a *stream* of words, and the next position is ``stride`` pixels further in
it; rows of different ``y % stride`` are different streams. 16 bytes at one offset of a stream, for
all positions, are a *plane*; what a window reads are *chunks*: a plane at so many positions behind
its own. A stride, few channels and channels that are no multiple of 128 are thus no special cases:

======================  ===========================  ======  ======  ==============
3×3 convolution         chunks of a row of taps      planes  steps   bits 1 of them
======================  ===========================  ======  ======  ==============
32 channels             p                            1       2       56 %
64 channels             p, p + 2                     1       3       75 %
64 channels, stride 2   p, p + 1                     2       3       75 %
96 channels             0 p, 1 p, 2 p                3       5       68 %
128 channels            p, p + 1, p + 2              1       5       90 %
192 channels            0 p … 2 p, 0 p + 2, 1 p + 2  3       8       84 %
256 channels            0 p, 1 p, 0 p + 1, …         2       9       100 %
======================  ===========================  ======  ======  ==============

A step is 256 bits, two chunks; fewer than ``ceil(K / 256)`` cannot be, which 32, 64, 128 and 256
channels have. With fewer than 4 words a pixel lies in several chunks of its plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import NamedTuple

from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda.gemm import ceil

#: Words of a chunk: 16 bytes.
CHUNK = 4


class Chunk(NamedTuple):
    """What a window reads of one plane.

    Attributes
    ----------
    plane : int
    shift : int
        Positions behind the window's own.
    words : tuple of int
        Which words of K (KH, KW, words) it holds, −1 for none.
    """

    plane: int
    shift: int
    words: tuple[int, ...]

    @property
    def part(self) -> tuple[int, tuple[bool, ...]]:
        """The plane, and which of its words a window reads here."""
        return self.plane, tuple(word >= 0 for word in self.words)


@dataclass(frozen=True)
class Patch:
    """The positions of a convolution, and the patch of them that a tile reads.

    Attributes
    ----------
    problem : Problem
    rows : int
        Positions of a tile.
    """

    problem: Problem
    rows: int

    @cached_property
    def height(self) -> int:
        """Rows of an image in positions."""
        return self._pitch(0)

    @cached_property
    def width(self) -> int:
        """Columns of an image in positions."""
        return self._pitch(1)

    @property
    def area(self) -> int:
        """Positions of an image."""
        return self.height * self.width

    @property
    def positions(self) -> int:
        """Positions of all images."""
        return self.problem.images * self.area

    def _pitch(self, axis: int) -> int:
        """Return how many positions lie between neighbours across an axis.

        Enough for the outputs and for the pixels that are read; and what is read behind them has to
        be zeros, also where it is the next row's (or image's) own margin.
        """
        made = self.problem
        size, before = (made.height, made.width)[axis], made.padding[axis]
        outputs, stride, dilation = made.map[axis], made.strides[axis], made.dilation[axis]
        pitch = outputs
        for tap in range(made.kernel[axis]):
            shift, phase = divmod(tap * dilation, stride)
            read = outputs + shift
            first = max(ceil(before - phase, stride), 0)
            last = min((size - 1 + before - phase) // stride, read - 1)
            pitch = max(pitch, last + 1, read - first)
        return pitch

    @property
    def unit(self) -> int:
        """Words that can be copied at once: 4, 2 or 1."""
        return gcd(self.problem.words, CHUNK)

    @cached_property
    def streams(self) -> list[int]:
        """Which rows of ``strides[0]`` are read."""
        made = self.problem
        return sorted({y * made.dilation[0] % made.strides[0] for y in range(made.kernel[0])})

    @property
    def advance(self) -> int:
        """Words of a stream from one position to the next."""
        return self.problem.strides[1] * self.problem.words

    @cached_property
    def _offsets(self) -> list[int]:
        """Where the chunks of a row of taps lie in its stream: as few as cover all words."""
        found: list[int] = []
        for word in self._read:
            if not found or word >= found[-1] + CHUNK:
                found.append(word)
        return found

    @cached_property
    def _read(self) -> dict[int, int]:
        """Words of a stream that a row of taps reads, and which of its own they are."""
        words, dilation = self.problem.words, self.problem.dilation[1]
        return {
            tap * dilation * words + word: tap * words + word
            for tap in range(self.problem.kernel[1])
            for word in range(words)
        }

    @cached_property
    def offsets(self) -> range:
        """Where the planes of a stream start in it, in words."""
        starts = {offset % self.advance for offset in self._offsets}
        step = gcd(*starts) or CHUNK
        return range(0, max(starts) + 1, step)

    @property
    def planes(self) -> int:
        """Planes of all streams."""
        return len(self.streams) * len(self.offsets)

    @cached_property
    def chunks(self) -> list[Chunk]:
        """What a window reads, by where it lies in memory."""
        made, found = self.problem, []
        for y in range(made.kernel[0]):
            down, row = divmod(y * made.dilation[0], made.strides[0])
            for offset in self._offsets:
                right, start = divmod(offset, self.advance)
                plane = self.streams.index(row) * len(self.offsets) + self.offsets.index(start)
                own = [self._read.get(offset + i, -1) for i in range(CHUNK)]
                before = y * made.kernel[1] * made.words
                words = tuple(before + word if word >= 0 else -1 for word in own)
                found.append(Chunk(plane, down * self.width + right, words))
        return sorted(found)

    @property
    def steps(self) -> int:
        """Products of 256 bits: two chunks."""
        return ceil(len(self.chunks), 2)

    @property
    def order(self) -> tuple[int, ...]:
        """Which word of K each word of the weights is, in order; −1 for none."""
        words = [word for chunk in self.chunks for word in chunk.words]
        return (*words, *[-1] * (self.steps * 2 * CHUNK - len(words)))

    @cached_property
    def length(self) -> int:
        """Positions of a plane of a patch; one more for a step that has no second chunk.

        Neighbouring threads copy neighbouring planes of a stream: some more positions, so that 8
        of them meet no bank twice.
        """
        least = self.rows + max(chunk.shift for chunk in self.chunks) + 1
        lanes = len(self.offsets)

        def banks(length: int) -> int:
            return len({(i % lanes * length + i // lanes) % 8 for i in range(8)})

        return max(range(least, least + 8), key=banks)

    def start(self, chunk: Chunk) -> int:
        """Return where a chunk of position 0 lies in a patch, in chunks."""
        return chunk.plane * self.length + chunk.shift

    @cached_property
    def tables(self) -> list[tuple[tuple[int, tuple[bool, ...]], ...]]:
        """What is counted at a position: parts of planes. A window's bits are a sum of `counts`."""
        return sorted({tuple(parts) for parts in self._by_shift.values()})

    @cached_property
    def counts(self) -> list[tuple[int, int]]:
        """Tables and shifts whose counts are the bits of a window."""
        found = self._by_shift.items()
        return [(self.tables.index(tuple(parts)), shift) for shift, parts in found]

    @cached_property
    def _by_shift(self) -> dict[int, list[tuple[int, tuple[bool, ...]]]]:
        found: dict[int, list[tuple[int, tuple[bool, ...]]]] = {}
        for chunk in self.chunks:
            found.setdefault(chunk.shift, []).append(chunk.part)
        return found

    @property
    def patch_bytes(self) -> int:
        """Shared memory of one patch, rounded up."""
        return ceil(self.planes * self.length, 8) * 128

    @property
    def count_bytes(self) -> int:
        """Shared memory of the counts of one patch, and of those of its windows, rounded up."""
        return ceil(len(self.tables) * self.length + self.rows, 32) * 128

# SPDX-License-Identifier: Apache-2.0
"""Which tiles Winograd's method computes: one axis of a tile, and the choice of its size."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product

from xnortvm.ops.winograd import Transforms, transforms


@dataclass(frozen=True)
class Piece:
    """`count` points from `first` on, to which the first `phases` phases contribute."""

    first: int
    count: int
    phases: int


@dataclass(frozen=True)
class Axis:
    """One axis of the convolution: `kernel` taps of stride `stride`, tiles of `tile` outputs."""

    kernel: int
    stride: int
    outputs: int
    tile: int

    @property
    def taps(self) -> int:
        """Taps of the longest phase."""
        return -(-self.kernel // self.stride)

    @property
    def points(self) -> int:
        """Points of a tile."""
        return self.tile + self.taps - 1

    @property
    def full(self) -> int:
        """Phases with that many taps: the first ones."""
        return self.kernel - self.stride * (self.taps - 1)

    @property
    def step(self) -> int:
        """Inputs from one tile to the next."""
        return self.stride * self.tile

    @property
    def tiles(self) -> int:
        """Tiles that cover the outputs."""
        return -(-self.outputs // self.tile)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Points with equally many phases; the last point is infinity."""
        if self.full == self.stride or self.points == 1:
            return (Piece(0, self.points, self.full),)
        return (Piece(0, self.points - 1, self.stride), Piece(self.points - 1, 1, self.full))

    @property
    def terms(self) -> int:
        """Products of one channel over all points of this axis."""
        return sum(piece.count * piece.phases for piece in self.pieces)

    @cached_property
    def matrices(self) -> Transforms:
        """The matrices of F(tile, taps)."""
        return transforms(self.tile, self.taps)


#: Tiles in a group: their accumulators stay in registers and their points in the first-level cache.
LARGEST_GROUP, SMALLEST_GROUP = 14, 7


def group_of(tiles: int, registers: int) -> int:
    """Return how many tiles of a row are computed together: fewest tiles of nothing, then most.

    Examples
    --------
    >>> [group_of(tiles, 30) for tiles in (28, 38, 5)]
    [14, 13, 5]
    """
    largest = min(LARGEST_GROUP, registers)
    sizes = range(min(tiles, SMALLEST_GROUP), min(tiles, largest) + 1)
    return min(sizes, key=lambda size: (-(-tiles // size) * size, -size))


#: Most outputs of a tile along each axis, most points along each and along both together. Larger
#: tiles lose digits: for 7×7 taps of stride 2 and normal random data the largest error is 1.1e-6
#: of the largest output with 3×3 outputs, 2.0e-6 with 3×4, 3.3e-6 with 4×4; plain sums 0.6e-6.
MOST_OUTPUTS, MOST_POINTS, MOST_POINTS_TOGETHER = 4, 7, 13

#: How much less time makes another method worth its rounding.
REAL_GAIN = 1.2

#: Time of a vector instruction here against one of the exact kernel, which does nothing but
#: multiply (measured on Zen 4 over nine layers).
_SLOWER = 1.25


def choose_tile(
    kernel: tuple[int, int],
    strides: tuple[int, int],
    size: tuple[int, int],
    channels: int,
    outputs: int,
) -> tuple[tuple[int, int], float]:
    """Return the fastest tile for an output map, and its gain over computing all products.

    Work is counted in vector instructions for one pixel and one vector of output channels.

    Examples
    --------
    >>> tile, gain = choose_tile((7, 7), (2, 2), (112, 112), 3, 64)
    >>> tile, round(gain, 1)
    ((3, 4), 2.3)
    """
    direct = kernel[0] * kernel[1] * channels
    costs: dict[tuple[int, int], float] = {}
    sizes = range(1, MOST_OUTPUTS + 1)
    for tile in product(sizes, sizes):
        y, x = (Axis(*of) for of in zip(kernel, strides, size, tile, strict=True))
        allowed = max(y.points, x.points) <= MOST_POINTS
        if allowed and y.points + x.points <= MOST_POINTS_TOGETHER:
            costs[tile] = _work(y, x, channels, outputs)
    if not costs:
        return (1, 1), 0.0
    best = min(costs, key=lambda tile: costs[tile])
    return best, direct / costs[best]


def _work(y: Axis, x: Axis, channels: int, outputs: int) -> float:
    products = y.terms * x.terms * channels
    stored = y.points * x.points  # each is stored and loaded again
    back = y.points * _terms(x.matrices.output) + x.tile * _terms(y.matrices.output)
    # The input's transform serves all output channels.
    down = y.stride * x.step * _terms(y.matrices.input)
    along = y.stride * x.stride * y.points * _terms(x.matrices.input)
    there = channels * (down + along) / outputs
    of_tile = products + 1.5 * stored + 0.3 * back + there  # additions have ports of their own
    group = group_of(x.tiles, LARGEST_GROUP)
    columns = -(-x.tiles // group) * group
    return _SLOWER * of_tile * y.tiles * columns / (y.outputs * x.outputs)


def _terms(rows: tuple[tuple[Fraction, ...], ...]) -> int:
    return sum(value != 0 for row in rows for value in row)

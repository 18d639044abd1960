# SPDX-License-Identifier: Apache-2.0
"""Float sums in steps: load all that a step needs, then multiply, for cores that issue in order.

A loop over single taps leaves the order of loads and products to LLVM, which spreads the loads.
Where instructions finish in order, every change from products to loads costs some cycles
(docs/arm.md says which). So a step takes several taps of the reduction at once, neighbours in
memory: one load brings an input for four of them, and there is one change for all.

Here is what a step loads and multiplies, in numbers; `xnortvm.schedules.step_blocks` reads them off
a kernel and sets the step in the place of the loops.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from xnortvm.schedules.fmla import Load, Product
from xnortvm.schedules.tiling import COSTS, Costs, Tile, divisors

#: Floats of one vector, and vector registers, all of which a step may use.
LANES, REGISTERS = 4, 32
#: Taps of the reduction in one step, at most.
MOST_TAPS = 16
#: Cycles of a step besides one for each load and each product, and those between two additions to
#: one accumulator, on a Cortex-A53.
CHANGE, LATENCY = 10, 10
#: Cycles of a product where no step fits.
SINGLE = 3.2

#: What pointers point into.
WRITTEN, ACTIVATIONS, WEIGHTS = "written", "activations", "weights"

#: An element of a buffer, or a distance between two: a number for each dimension.
Place = tuple[int, ...]


class Access(NamedTuple):
    """An element that moves linearly with the axes of a block.

    Attributes
    ----------
    shape : Place
        Of the buffer.
    slopes : tuple of Place
        For each axis, how far a step along it moves. The axis of output channels steps by whole
        vectors.
    """

    shape: Place
    slopes: tuple[Place, ...]

    def place(self, steps: Mapping[int, int]) -> Place:
        """Return how far some steps along the axes move in all."""
        moves = [[slope * count for slope in self.slopes[axis]] for axis, count in steps.items()]
        return tuple(map(sum, zip(*moves, [0] * len(self.shape), strict=True)))

    @property
    def row(self) -> int:
        """The first dimension of a row: the last one, or more of them to fill a vector."""
        first = len(self.shape) - 1
        while first and math.prod(self.shape[first:]) < LANES:
            first -= 1
        return first

    def distance(self, place: Place) -> int:
        """Return how many elements a place is from the start of its row."""
        total = 0
        for size, index in zip(self.shape[self.row :], place[self.row :], strict=True):
            total = total * size + index
        return total


@dataclass(frozen=True)
class Step:
    """What is loaded and multiplied for a tile and a few taps.

    Attributes
    ----------
    taps : tuple of int
        Of each reduction axis, how many taps.
    accumulators : int
    pointers : list of (str, Place)
        What they point into, and where: first the accumulators.
    loads : list of Load
    products : list of Product
        As `xnortvm.schedules.fmla.function_of` takes them.
    """

    taps: Place
    accumulators: int
    pointers: list[tuple[str, Place]]
    loads: list[Load]
    products: list[Product]

    @property
    def registers(self) -> int:
        """How many vector registers it takes."""
        return self.accumulators + len(self.loads)

    @property
    def cycles(self) -> float:
        """How many cycles a product takes, with its share of loads."""
        count = len(self.products)
        return (max(count, LATENCY * math.prod(self.taps)) + len(self.loads) + CHANGE) / count


class Sums(NamedTuple):
    """A float sum of products.

    Attributes
    ----------
    written, activations, weights : Access
    spatial : int
        How many axes are not summed up; the last of them is that of output channels.
    extents : Place
        Of the axes that are summed up.
    """

    written: Access
    activations: Access
    weights: Access
    spatial: int
    extents: Place

    def _strides(self) -> dict[int, int]:
        """Return the reduction axes that walk along a row of the activations, and their strides."""
        first = self.activations.row
        strides = {}
        for number in range(len(self.extents)):
            moved = self.activations.place({self.spatial + number: 1})
            if any(moved[first:]) and not any(moved[:first]):
                strides[number] = self.activations.distance(moved)
        return strides

    @property
    def order(self) -> Place:
        """The reduction axes, outermost first: those along a row are the innermost.

        Tiles of any steps, and of none, add up in this order, so that their sums are equal.
        """
        strides = self._strides()
        return tuple(sorted(range(len(self.extents)), key=lambda n: -strides.get(n, math.inf)))

    def taps(self) -> Iterator[Place]:
        """Yield how many taps a step may take: neighbours in a row of the activations."""
        strides = self._strides()
        inner = [1] * len(self.extents)
        for number in sorted(strides, key=lambda axis: strides[axis]):
            for count in divisors(self.extents[number])[1:]:
                taps = (*inner[:number], count, *inner[number + 1 :])
                if math.prod(taps) <= MOST_TAPS:
                    yield taps
            inner[number] = self.extents[number]

    def step(self, tile: Tile, taps: Place) -> Step | None:
        """Return the step of a tile and so many taps; None where they fill no vector."""
        channel = self.spatial - 1
        rows = range(tile.rows) if self.spatial > 2 else (0,)
        pixels = [
            {channel - 2: row, channel - 1: column} if self.spatial > 2 else {channel - 1: column}
            for row in rows
            for column in range(tile.columns)
        ]
        offsets = [
            {self.spatial + number: tap for number, tap in zip(self.order, each, strict=True)}
            for each in itertools.product(*(range(taps[number]) for number in self.order))
        ]
        covered = _vectors(
            [[self.activations.place(pixel | offset) for pixel in pixels] for offset in offsets],
            self.activations,
        )
        if covered is None:
            return None
        starts, loads, elements = covered
        pointers = [
            (WRITTEN, self.written.place(pixel | {channel: vector}))
            for pixel in pixels
            for vector in range(tile.vectors)
        ]
        products = []
        weights = []
        for offset, inputs in zip(offsets, elements, strict=True):
            for vector in range(tile.vectors):
                weights.append((WEIGHTS, self.weights.place(offset | {channel: vector})))
                loads.append(Load(len(starts) + len(weights) - 1, 0))
                products += [
                    Product(pixel * tile.vectors + vector, len(loads) - 1, *element)
                    for pixel, element in enumerate(inputs)
                ]
        inputs_at = [(ACTIVATIONS, place) for place in starts]
        return Step(taps, len(pointers), [*pointers, *inputs_at, *weights], loads, products)


@lru_cache(maxsize=4096)
def best_step(sums: Sums, tile: Tile) -> Step | None:
    """Return the step of a tile with the fewest cycles, None where none fits the registers."""
    steps = (sums.step(tile, taps) for taps in sums.taps())
    fitting = [step for step in steps if step is not None and step.registers <= REGISTERS]
    return min(fitting, key=lambda step: step.cycles, default=None)


@dataclass(frozen=True)
class StepCosts(Costs):
    """The cost of float tiles that are computed in steps.

    Attributes
    ----------
    sums : Sums
    """

    sums: Sums | None = None

    def of(self, tile: Tile) -> float:
        """Return the cycles of a product: those of the step, or of a loop over single taps."""
        step = best_step(self.sums, tile) if self.sums else None
        return step.cycles if step else SINGLE + super().of(tile)


def _vectors(
    places: Sequence[Sequence[Place]], access: Access
) -> tuple[list[Place], list[Load], list[list[tuple[int, int]]]] | None:
    """Cover places by vectors of which each element lies between two of them.

    Returns
    -------
    starts : list of Place
        The first place of every row, for pointers.
    loads : list of Load
    elements : list of list of (int, int)
        For every place, the number of a load and a lane. None where a row fills no vector.
    """
    rows: dict[Place, dict[int, Place]] = {}
    for place in itertools.chain(*places):
        rows.setdefault(place[: access.row], {})[access.distance(place)] = place
    starts: list[Place] = []
    loads: list[Load] = []
    element: dict[Place, tuple[int, int]] = {}
    for row in rows.values():
        first, last = min(row), max(row)
        if last - first < LANES - 1:
            return None
        starts.append(row[first])
        begin = first - LANES
        for distance in sorted(row):
            if distance >= begin + LANES:
                begin = min(distance, last - LANES + 1)
                loads.append(Load(len(starts) - 1, begin - first))
            element[row[distance]] = len(loads) - 1, distance - begin
    return starts, loads, [[element[place] for place in each] for each in places]


def costs_of(sums: Sums | None, form: str) -> Costs:
    """Return what tiles of a form cost, in steps where the sums are given."""
    base = COSTS[form]
    return base if sums is None else StepCosts(**vars(base), sums=sums)

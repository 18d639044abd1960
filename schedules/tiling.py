# SPDX-License-Identifier: Apache-2.0
"""How many pixels and vectors of output channels are accumulated in registers at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

#: Arrays of a tile stay on the stack while they are smaller than this many bytes.
STACK_BYTES = 1024


class Tile(NamedTuple):
    """A register tile: ``rows`` × ``columns`` pixels × ``vectors`` of output channels."""

    rows: int
    columns: int
    vectors: int

    @property
    def pixels(self) -> int:
        """Pixels of the tile."""
        return self.rows * self.columns

    @property
    def accumulators(self) -> int:
        """Vector registers that hold accumulators."""
        return self.pixels * self.vectors


@dataclass(frozen=True)
class Costs:
    """What one step of the reduction costs, in vector operations.

    Attributes
    ----------
    operation : float
        Per accumulator.
    load : float
        Per broadcast activation and per vector of weights.
    step : float
        Loop overhead per step.
    chains : int
        Accumulators needed to hide the latency of the accumulating instruction.
    """

    operation: float
    load: float
    step: float
    chains: int

    def of(self, tile: Tile) -> float:
        """Return the cost of a tile per accumulator."""
        count = tile.accumulators
        stalls = max(1.0, self.chains / count)
        moved = (tile.pixels + tile.vectors) * self.load + self.step
        return self.operation * stalls + moved / count


#: By form of the inner loop.
COSTS = {
    "byte": Costs(operation=8.0, load=0.5, step=1.0, chains=1),
    "word": Costs(operation=3.0, load=0.5, step=1.0, chains=2),
    "float": Costs(operation=1.0, load=0.4, step=0.3, chains=9),
}


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, ascending."""
    return [d for d in range(1, number + 1) if number % d == 0]


def tiles(rows: int, columns: int, vectors: int, accumulators: int, pixels: int) -> Iterator[Tile]:
    """Yield the tiles that divide an output map and fit the register file.

    Parameters
    ----------
    rows, columns : int
        The output map.
    vectors : int
        Vectors in one block of output channels.
    accumulators, pixels : int
        Limits of a tile.
    """
    for tile_rows in divisors(rows):
        for tile_columns in divisors(columns):
            for tile_vectors in divisors(vectors):
                tile = Tile(tile_rows, tile_columns, tile_vectors)
                if tile.accumulators <= accumulators and tile.pixels <= pixels:
                    yield tile


def choose_tile(
    rows: int, columns: int, vectors: int, accumulators: int, pixels: int, form: str
) -> Tile:
    """Return the cheapest tile; of equals the one with the longest row.

    Examples
    --------
    >>> choose_tile(56, 56, 4, 8, 7, "byte")
    Tile(rows=1, columns=2, vectors=4)
    """
    costs = COSTS[form]
    return min(
        tiles(rows, columns, vectors, accumulators, max(pixels, 1)),
        key=lambda tile: (costs.of(tile), -tile.columns),
    )

# SPDX-License-Identifier: Apache-2.0
"""How many pixels and vectors of output channels are accumulated in registers at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from xnortvm.schedules.isa import Isa

#: Arrays of a tile stay on the stack while they are smaller than this many bytes.
STACK_BYTES = 1024

#: Bits of a packed word.
WORD = 32


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
    broadcast, load : float
        Per activation that is broadcast, and per vector of weights.
    step : float
        Loop overhead per step.
    chains : int
        Accumulators needed to hide the latency of the accumulating instruction.
    block : int
        A map is computed in blocks of at most so many output channels, or of one vector; single
        pixels in blocks of two words.
    bytes : int
        Bytes of a finished sum on the stack.
    folds : bool
        Whether a broadcast activation that a single vector reads is an operand of the instruction
        (``vpxord {1to16}``) instead of a load of its own.
    weights : int
        Registers that hold the weights of one vector of output channels.
    accumulator : float
        Registers for an accumulator, with its share of the narrower sums that are added to it.
    columns : int
        Tiles have a multiple of so many columns.
    """

    operation: float
    broadcast: float
    load: float
    step: float
    chains: int
    block: int = WORD
    bytes: int = 4
    folds: bool = False
    weights: int = 1
    accumulator: float = 1.0
    columns: int = 1

    def of(self, tile: Tile) -> float:
        """Return the cost of a tile per accumulator."""
        count = tile.accumulators
        stalls = max(1.0, self.chains / count)
        broadcasts = 0 if self.folds and tile.vectors == 1 else tile.pixels
        moved = broadcasts * self.broadcast + tile.vectors * self.load + self.step
        return self.operation * stalls + moved / count


#: By form of the inner loop. The table form's are fitted to tiles measured on Zen 4: an activation
#: is two loads, of its row number and of the row, and additions get in the way of shuffles.
COSTS = {
    "byte": Costs(operation=8.0, broadcast=0.5, load=0.5, step=1.0, chains=1),
    "word": Costs(operation=3.0, broadcast=0.5, load=0.5, step=1.0, chains=2, folds=True),
    "table": Costs(
        operation=2.0, broadcast=2.0, load=2.2, step=0.0, chains=6, block=4 * WORD, bytes=2
    ),
    "pairwise": Costs(
        operation=24.0, broadcast=1.0, load=8.0, step=2.0, chains=1, bytes=2, weights=8
    ),
    "paired": Costs(
        operation=13.0,
        broadcast=0.5,
        load=8.0,
        step=3.0,
        chains=2,
        bytes=2,
        weights=8,
        accumulator=1.5,
        columns=2,
    ),
    "float": Costs(operation=1.0, broadcast=0.4, load=0.4, step=0.3, chains=8),
}


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, ascending."""
    return [d for d in range(1, number + 1) if number % d == 0]


def tiles(
    rows: int, columns: int, vectors: Iterable[int], registers: int, costs: Costs
) -> Iterator[tuple[Tile, int]]:
    """Yield the tiles that divide an output map and fit the register file and the stack.

    Parameters
    ----------
    rows, columns : int
        The output map.
    vectors : iterable of int
        Sizes, in vectors, that a block of output channels may have.
    registers : int
        For accumulators and weights. The weights of a single pixel are operands in memory.
    costs : Costs
        Say how many registers each takes.

    Yields
    ------
    (Tile, int)
        The tile and the size of the block of output channels.
    """
    for block in vectors:
        for tile_vectors in divisors(block):
            for tile_rows in divisors(rows):
                for tile_columns in divisors(columns):
                    tile = Tile(tile_rows, tile_columns, tile_vectors)
                    held = costs.weights * tile_vectors if tile.pixels > 1 else 0
                    if tile.accumulators * costs.accumulator + held <= registers:
                        yield tile, block


def suits(tile: Tile, block: int, lanes: int, form: str) -> bool:
    """Return whether a form can have a tile, and its finished sums stay on the stack."""
    costs = COSTS[form]
    small = tile.pixels * block * lanes * costs.bytes < STACK_BYTES
    return small and tile.columns % costs.columns == 0


def choose_tile(
    rows: int,
    columns: int,
    vectors: Iterable[int],
    lanes: int,
    registers: int,
    form: str,
    costs: Costs | None = None,
) -> tuple[Tile, int]:
    """Return the cheapest tile and its block of channels; of equals the largest block.

    Without `costs` those of the form are taken.

    Examples
    --------
    >>> choose_tile(56, 56, [4], 8, 12, "byte")
    (Tile(rows=1, columns=2, vectors=4), 4)
    """
    costs = costs or COSTS[form]
    largest = costs.block if rows * columns > 1 else 2 * WORD
    vectors = [block for block in vectors if block * lanes <= max(largest, lanes)]
    fitting = [
        (tile, block)
        for tile, block in tiles(rows, columns, vectors, registers, costs)
        if suits(tile, block, lanes, form)
    ]
    return min(fitting, key=lambda found: (costs.of(found[0]), -found[1], -found[0].columns))


def whole_words(blocks: list[int], lanes: int) -> list[int]:
    """Return the sizes, in vectors, that are whole words of packed bits; all if none is."""
    return [block for block in blocks if block * lanes % WORD == 0] or blocks


#: A map is computed up to so many columns wider than it is, if that saves so much of the time.
_MOST_COLUMNS, _LEAST_GAIN = 3, 0.05


def least_columns(columns: int, form: str) -> int:
    """Return the fewest columns that a form can compute for a map of so many."""
    step = COSTS[form].columns
    return -(-columns // step) * step


def computed_columns(
    rows: int, columns: int, channels: int, lanes: int, isa: Isa, form: str
) -> int:
    """Return how many columns of a map to compute, so that a good tile divides it.

    Parameters
    ----------
    rows, columns : int
        The map that is wanted.
    channels : int
        Output channels, with those that fill vectors.

    Examples
    --------
    >>> from xnortvm.schedules.isa import ISAS
    >>> computed_columns(13, 13, 256, 16, ISAS["avx512vpopcntdq"], "word")
    14
    """
    step = COSTS[form].columns
    if rows * columns == 1:
        return step
    blocks = whole_words(divisors(-(-channels // lanes)), lanes)

    def cost(width: int) -> float:
        tile, _ = choose_tile(rows, width, blocks, lanes, isa.registers(form), form)
        return COSTS[form].of(tile) * width

    least = least_columns(columns, form)
    best = min(range(least, columns + _MOST_COLUMNS + 1, step), key=cost)
    return best if cost(best) < (1 - _LEAST_GAIN) * cost(least) else least

# SPDX-License-Identifier: Apache-2.0
"""Tiles of `wgmma_gemm`, and a model of the clocks that a product takes with one.

What bounds a multiprocessor, for 64 rows × N columns of a warpgroup, by nominal rates (**no GPU has
confirmed any of it**):

=================  =============================================================================
tensor cores       N / 2 clocks for 256 bits of K
shared memory      128 bytes a clock: activations are written, read by `wgmma` and read to be
                   counted, 3 × 2 KiB for 256 bits; weights are read, N × 32 bytes
instructions       4 a clock; `STAGE` of a warp for 1024 bits, `OUTPUT` of a lane for an output
turns              warpgroups of a block multiply one after the other, and each has its epilogue,
                   an instruction of a warp in `PACE` clocks, before it multiplies again
L2                 weights once for each block, activations once for each tile of columns
=================  =============================================================================

For 256 columns that is 14 KiB of shared memory in 128 clocks of tensor cores, 87 % of what there
is; for 128 columns 125 %. A kernel of 128 × 128 outputs that copies its weights again for every
tile needs 150 %, and twice the reads from L2: so weights stay. Counting bits takes POPC a quarter
of the clocks of tensor cores and shared memory an eighth, both of which are there: a kernel that
counts beforehand would be a launch for nothing.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from xnortvm.schedules.cuda.bulk import SIZE
from xnortvm.schedules.cuda.epilogue import NotElementwiseError
from xnortvm.schedules.cuda.gemm import Gemm, ceil
from xnortvm.schedules.cuda.staged import Stage

WARPGROUP = 128
#: Of a block.
WARPGROUPS = 2
#: Rows of one wgmma.
ROWS = 64
#: Words of K of a stage: rows of 128 bytes.
WORDS = 32
#: Words of K of one wgmma: 256 bits.
STEP = 8

#: Of an H100 or H200.
MULTIPROCESSORS = 132
#: Bytes of shared memory of a multiprocessor, and what a block takes of it beside its own.
SHARED, RESERVED = 228 << 10, 1 << 10
#: Bytes that a multiprocessor reads in a clock from shared memory, and from L2 when all do.
BANKS, L2 = 128, 24
#: Clocks from a launch to the first product.
FIRST = 1500

#: Instructions of a warp for a stage, and of a lane for an output, counted in the machine code.
STAGE, OUTPUT = 172, 8
#: Clocks from one instruction of a warp to the next.
PACE = 1.6

#: Registers of a thread for sums and the places of windows, by the blocks of a multiprocessor.
REGISTERS = {1: 160, 2: 48}


class Estimate(NamedTuple):
    """Clocks: of a product, and what tensor cores, shared memory and L2 need of them."""

    total: float
    tensor: float
    memory: float
    read: float


class Tile(NamedTuple):
    """What there is to decide.

    Attributes
    ----------
    columns : int
        Of a block.
    slots : int
        Stages of activations that each warpgroup keeps; 3 at least.
    blocks : int
        Of a multiprocessor.
    ordered : int
        1: warpgroups of a block multiply in turn; 0: as it comes.
    """

    columns: int
    slots: int = 4
    blocks: int = 1
    ordered: int = 1

    @property
    def stage(self) -> Stage:
        """One stage of activations."""
        return Stage(ROWS, 0, WORDS)

    @property
    def slot(self) -> int:
        """Bytes of a stage of activations."""
        return self.stage.size * 4

    @property
    def weight_stage(self) -> int:
        """Bytes of a stage of weights."""
        return self.columns * WORDS * 4

    def shared(self, gemm: Gemm) -> int:
        """Return the bytes of shared memory of a block: weights, activations, barriers."""
        stages = ceil(gemm.words, WORDS)
        windows = WARPGROUPS * self.slots * self.slot
        return stages * self.weight_stage + windows + ceil(stages, 16) * 16 * SIZE

    def fits(self, gemm: Gemm) -> bool:
        """Return whether a multiprocessor has the shared memory and registers."""
        windows = ceil(ROWS, WARPGROUP // (WORDS // gemm.piece))
        places = windows * (3 if any(gemm.problem.padding) else 1)
        registers = self.columns // 2 + places
        memory = self.blocks * (self.shared(gemm) + RESERVED)
        return memory <= SHARED and registers <= REGISTERS[self.blocks]

    def shares(self, gemm: Gemm) -> int:
        """Return how many blocks share the rows of a tile of columns."""
        column_tiles = ceil(gemm.columns, self.columns) * gemm.problem.groups
        most = max(MULTIPROCESSORS * self.blocks // column_tiles, 1)
        return min(ceil(ceil(gemm.rows, ROWS), WARPGROUPS), most)

    def estimate(self, gemm: Gemm) -> Estimate:
        """Return the estimated clocks of a product."""
        stages, steps = ceil(gemm.words, WORDS), ceil(gemm.words, STEP)
        column_tiles = ceil(gemm.columns, self.columns) * gemm.problem.groups
        shares = self.shares(gemm)
        turns = ceil(ceil(gemm.rows, ROWS), shares * WARPGROUPS)
        waves = ceil(shares * column_tiles, MULTIPROCESSORS * self.blocks)
        blocks = min(self.blocks, ceil(shares * column_tiles, MULTIPROCESSORS))
        groups = blocks * WARPGROUPS
        operands = steps * (ROWS + self.columns) * STEP * 4
        tensor = steps * self.columns / 2
        memory = (stages * self.slot * 2 + operands) / BANKS
        products = max(tensor, stages * STAGE * PACE)
        epilogue = self.columns / 2 * OUTPUT
        together = max(groups * tensor, groups * memory, products)
        if self.ordered:
            issue = groups * (stages * STAGE + epilogue)
            alternating = max(WARPGROUPS * products, products + epilogue * PACE)
            turn, first = max(together, issue, alternating), products
        else:
            turn, first = together + epilogue * max(PACE, groups), 0
        read = blocks * stages * (self.weight_stage + turns * WARPGROUPS * self.slot) / L2
        times = waves * turns
        return Estimate(
            FIRST + first + max(times * turn, waves * read),
            times * groups * tensor,
            times * groups * memory,
            waves * read,
        )


def tiles(gemm: Gemm) -> list[Tile]:
    """Return the tiles that fit, those first that the model takes for the fastest."""
    numbers = product((32, 64, 96, 128, 192, 256), (6, 4, 3), (1, 2), (1, 0))
    found = (Tile(*each) for each in numbers if each[0] < gemm.columns + 64)
    return sorted((tile for tile in found if tile.fits(gemm)), key=lambda tile: tile.estimate(gemm))


def tile_for(gemm: Gemm) -> Tile:
    """Return the tile for a product.

    Raises
    ------
    NotElementwiseError
        When no tile has room for the weights.
    """
    found = tiles(gemm)
    if not found:
        raise NotElementwiseError(
            f"weights of 32 channels with {gemm.words * 32} bits each do not fit shared memory"
        )
    return found[0]

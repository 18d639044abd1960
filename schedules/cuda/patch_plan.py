# SPDX-License-Identifier: Apache-2.0
"""How the blocks of a Hopper chip share a direct convolution: `wgmma_conv` without its code.

A block keeps the weights of some output channels in shared memory and computes tiles of 64
positions; each of its two warpgroups has two patches, one of which is copied meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda.epilogue import NotElementwiseError
from xnortvm.schedules.cuda.gemm import ceil
from xnortvm.schedules.cuda.patch import CHUNK, Patch

WARPGROUP = 128
WARPGROUPS = 2
THREADS = WARPGROUPS * WARPGROUP
#: Rows of one wgmma: positions of a tile.
ROWS = 64
CHUNK_BYTES = 16
#: Multiprocessors of an H100 or H200; blocks for each of them that share its memory.
MULTIPROCESSORS, BLOCKS = 132, 2
#: KiB of shared memory of a multiprocessor; each of its blocks takes one more than it asks for.
SHARED = 227
#: Registers of a multiprocessor, and those of a thread that do not hold sums.
REGISTERS, OTHERS = 65536, 48


class Tile(NamedTuple):
    """What there is to decide: output channels of a block, and blocks of a multiprocessor."""

    columns: int
    blocks: int = BLOCKS


#: What the rule chooses from.
TILES = (Tile(128), Tile(64), Tile(32))


@dataclass(frozen=True)
class Plan:
    """How the blocks of a chip share a convolution.

    Attributes
    ----------
    patch : Patch
    tile : Tile
    """

    patch: Patch
    tile: Tile

    @property
    def column_tiles(self) -> int:
        """Blocks that share an output pixel of a group."""
        made = self.patch.problem
        return ceil(made.outputs // made.groups, self.tile.columns)

    @property
    def tiles(self) -> int:
        """Tiles of 64 positions."""
        return ceil(self.patch.positions, ROWS)

    @property
    def blocks(self) -> int:
        """Blocks that share the tiles: as many as the chip runs at once."""
        others = self.column_tiles * self.patch.problem.groups
        together = MULTIPROCESSORS * self.tile.blocks // others
        return min(max(together, 1), ceil(self.tiles, WARPGROUPS))

    @property
    def weight_bytes(self) -> int:
        """Shared memory of the weights."""
        return self.patch.steps * 2 * self.tile.columns * CHUNK_BYTES

    @property
    def own_bytes(self) -> int:
        """Shared memory of a warpgroup: two patches and its counts."""
        return 2 * self.patch.patch_bytes + self.patch.count_bytes

    @property
    def shared(self) -> int:
        """Shared memory of a block."""
        return self.weight_bytes + WARPGROUPS * self.own_bytes

    @property
    def fits(self) -> bool:
        """Whether the blocks of a multiprocessor fit its shared memory and its registers."""
        columns, blocks = self.tile
        registers = (columns // 2 + OTHERS) * THREADS * blocks
        return self.shared <= (SHARED // blocks - 1) << 10 and registers <= REGISTERS

    @property
    def clocks(self) -> float:
        """Estimate of a multiprocessor's clocks, to compare plans: nothing of it is measured.

        A wgmma takes half a clock for a column, or the time to read its operands from shared
        memory, 128 bytes a clock. The machine code has about 10 instructions for an output, 15 for
        a copy and 150 more for a tile; four warps of a warpgroup issue one each in a clock. Weights
        arrive with 32 bytes a clock.
        """
        patch, (columns, blocks) = self.patch, self.tile
        products = patch.steps * max(columns / 2, 16 + columns / 4)
        rounds = ceil(len(patch.offsets) * patch.length, WARPGROUP)
        copies = rounds * len(patch.streams) * CHUNK // patch.unit
        issued = 10 * columns / 2 + 15 * copies + 150
        turns = ceil(self.tiles, WARPGROUPS * self.blocks)
        return blocks * WARPGROUPS * turns * max(products, issued) + self.weight_bytes / 32


def plan_of(problem: Problem, tile: Tile | None = None) -> Plan:
    """Return the plan for a problem, with another tile than it asks for.

    Raises
    ------
    NotElementwiseError
        When the template does not compute it.
    """
    if prod(problem.kernel) == 1:
        raise NotElementwiseError("a 1×1 convolution has no taps to share")
    if problem.pad_value == -1 and any(problem.padding):
        raise NotElementwiseError("copies fill up with zeros")
    patch = Patch(problem, ROWS)
    if tile is not None:
        return Plan(patch, tile)
    fitting = [plan for tile in TILES if (plan := Plan(patch, tile)).fits]
    if not fitting:
        raise NotElementwiseError("weights and patches do not fit shared memory")
    return min(fitting, key=lambda plan: plan.clocks)

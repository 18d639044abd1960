# SPDX-License-Identifier: Apache-2.0
"""The tiles of each family that tuning may try: the rule's first, then all that fit the chip.

A family without a row here has nothing to decide. What fits is what the template can be made with
on every chip that has the family; how fast it is, only a measurement knows.

=============  ================================================  ================================
family         what is decided                                   what bounds it
=============  ================================================  ================================
`tile`         pixels and channels of a thread, elements staged  48 KiB of shared memory, and the
               together, whether words are added before they     registers of a thread
               are counted
`mma_*`        warps, rows and columns of a warp, words of K     48 KiB, and the registers
               staged together, stages
`wgmma_gemm`   columns, stages, blocks of a multiprocessor,      227 KiB for all its blocks,
               whether warpgroups multiply in turn               registers
`wgmma_conv`   columns, blocks of a multiprocessor               227 KiB for all its blocks, and the
                                                                 registers for their sums
=============  ================================================  ================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda import mma, patch_plan, tile, wgmma_tile
from xnortvm.schedules.cuda.gemm import Gemm, ceil

#: Shared memory of a block where all chips are meant.
_SHARED = 48 << 10
#: Registers of a thread that sums and operands may take; 255 is what one can have.
_REGISTERS = 192


def tiles_of(family: str, problem: Problem) -> list[Any]:
    """Return the tiles of a family for a problem that it takes; [None] without any.

    Raises
    ------
    NotElementwiseError
        When the family does not compute the problem.
    """
    find = _TILES.get(family)
    return [None] if find is None else list(dict.fromkeys(find(problem)))


def _tile(problem: Problem) -> Iterable[tile.Tile]:
    rule = tile.tile_for(problem)
    vectors = ceil(problem.steps, tile.VECTOR)
    most = tile.MOST_VECTORS[problem.packed]
    chunks = ceil(vectors, most)
    sizes = dict.fromkeys(ceil(vectors, n * chunks) for n in (1, 2, 4))
    columns = [n for n in (1, 2, 4) if n <= max(ceil(problem.outputs, 32), 1)]
    found = (
        tile.Tile(*numbers)
        for numbers in product((1, 2, 4, 8), columns, sizes, (False, True)[: 1 + problem.packed])
    )
    return [rule, *(each for each in found if _fits(each, problem))]


def _fits(made: tile.Tile, problem: Problem) -> bool:
    operands = 1 + problem.masked
    sums = made.rows * made.columns * (3 if made.carry_save else 1)
    registers = sums + (made.rows + made.columns * operands) * tile.VECTOR
    staged = (made.pixels + made.channels * operands) * made.pitch + made.pixels * 3
    return registers <= _REGISTERS and staged * 4 <= _SHARED


def _mma(problem: Problem) -> Iterable[mma.Tile]:
    gemm = Gemm.of(problem)
    widest = max(32, ceil(gemm.columns, 32) * 32)
    numbers = product(((2, 2), (4, 1), (2, 4)), (16, 32, 48, 64), (32, 64), (16, 32), (2, 3, 4))

    def fits(made: mma.Tile) -> bool:
        sums, operands = made.rows * made.columns // 32, (made.rows + made.columns) // 4
        windows = ceil(made.block[0], made.threads // (made.words // gemm.piece))
        return (
            sums + operands + 3 * windows <= _REGISTERS
            and made.stage.size * 4 * made.stages <= _SHARED
            and made.block[1] <= widest
            and made.words <= max(gemm.words, 16)
        )

    found = (mma.Tile(*each) for each in numbers)
    return [mma.tile_for(gemm), *mma.TILES, *filter(fits, found)]


def _wgmma_gemm(problem: Problem) -> Iterable[wgmma_tile.Tile]:
    return wgmma_tile.tiles(Gemm.of(problem))


def _wgmma_conv(problem: Problem) -> Iterable[patch_plan.Tile]:
    found = [patch_plan.Tile(*each) for each in product((32, 64, 128, 256), (1, 2, 3))]
    widest = ceil(problem.outputs // problem.groups, 32) * 32
    fitting = [e for e in found if patch_plan.plan_of(problem, e).fits and e.columns <= widest]
    return [patch_plan.plan_of(problem).tile, *fitting]


_TILES: dict[str, Callable[[Problem], Iterable[Any]]] = {
    "tile": _tile,
    "mma_xor": _mma,
    "mma_and": _mma,
    "wgmma_gemm": _wgmma_gemm,
    "wgmma_conv": _wgmma_conv,
}

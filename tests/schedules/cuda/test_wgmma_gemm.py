# SPDX-License-Identifier: Apache-2.0
"""Products on Hopper's warpgroup tensor cores count exactly, and are native code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cuda.emulator import has_compiler
from tests.cuda.machine_code import Code, code_of, needs_disassembler
from tests.ops.kernel_cases import EPILOGUES, Case, Conv, bconv2d_case, bdense_case
from tests.schedules.cuda.kernels import CONVS, DENSE, UNPACKED, WHOLE, check
from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda import wgmma_gemm
from xnortvm.schedules.cuda.dispatch import make_kernel
from xnortvm.schedules.cuda.epilogue import NotElementwiseError, narrowed, read_anchor
from xnortvm.schedules.cuda.gemm import Gemm
from xnortvm.schedules.cuda.wgmma_tile import OUTPUT, STAGE, Tile, tile_for, tiles
from xnortvm.schedules.isa import gpu

ARCH = "sm_90a"
needs_gxx = pytest.mark.skipif(not has_compiler(), reason="the emulator compiles with g++")
SAMPLED = [(name, EPILOGUES[(i + 1) % len(EPILOGUES)]) for i, name in enumerate(CONVS)]
GRID = [(name, kind) for name in CONVS for kind in EPILOGUES]


@needs_gxx
@pytest.mark.parametrize(("name", "kind"), GRID if WHOLE else SAMPLED)
def test_convolutions_are_exact(name: str, kind: str) -> None:
    case = bconv2d_case(CONVS[name], gpu(ARCH), kind)
    if name == UNPACKED and kind in ("threshold", "pack", "two outputs"):
        with pytest.raises(NotElementwiseError, match="do not fill words"):
            wgmma_gemm.make(narrowed(case.func), ARCH)
        return
    check(case, lambda func: wgmma_gemm.make(func, ARCH), ARCH)


@needs_gxx
@pytest.mark.parametrize("name", DENSE)
def test_dense_layers_are_exact(name: str) -> None:
    for kind in EPILOGUES if WHOLE else ["two outputs"]:
        case = bdense_case(*DENSE[name], gpu(ARCH), kind)
        check(case, lambda func: wgmma_gemm.make(func, ARCH), ARCH)


#: Tiles, and how many blocks share the rows: fewer than rows need, so that each has several turns.
TILES = [
    (Tile(256, slots=3), 2),
    (Tile(192), 1),
    (Tile(128, slots=5), 1),
    (Tile(96, ordered=0), 2),
    (Tile(64, slots=6, blocks=2), 1),
    (Tile(32, slots=3, ordered=0), 1),
]


@needs_gxx
@pytest.mark.parametrize(("tile", "blocks"), TILES if WHOLE else TILES[::2], ids=str)
def test_warpgroups_take_turns_with_every_tile(tile: Tile, blocks: int) -> None:
    conv = Conv(128, 70, (9, 31), strides=(1, 2), images=3)  # 7 tiles of rows, 2 stages of K
    case = bconv2d_case(conv, gpu(ARCH), "threshold")
    check(case, lambda func: wgmma_gemm.make(func, ARCH, tile, blocks=blocks), ARCH)


@needs_gxx
@pytest.mark.parametrize("ordered", [1, 0])
@pytest.mark.parametrize("rows", [65, 129, 320])
def test_windows_of_following_tiles_are_copied_ahead(rows: int, ordered: int) -> None:
    case = bdense_case(rows, 256, 40, gpu(ARCH), "accumulator")  # one stage: two tiles ahead
    tile = Tile(64, ordered=ordered)
    check(case, lambda func: wgmma_gemm.make(func, ARCH, tile, blocks=1), ARCH)


@pytest.mark.parametrize("arch", ["sm_90", "sm_80", "sm_120"])
def test_only_hoppers_own_architecture_has_it(arch: str) -> None:
    func = bconv2d_case(Conv(64, 64, (8, 8)), gpu(arch)).func
    assert not make_kernel(func, arch)[1].startswith("wgmma")
    with pytest.raises(NotElementwiseError, match=f"{arch} has no wgmma"):
        wgmma_gemm.make(narrowed(func), arch)


def test_the_table_leaves_small_products_to_warps() -> None:
    def family(conv: Conv) -> str:
        return make_kernel(bconv2d_case(conv, gpu(ARCH)).func, ARCH)[1]

    assert family(Conv(64, 64, (8, 8), kernel=(1, 1), padding=(0,) * 4)) == "wgmma_gemm"
    assert family(Conv(64, 64, (4, 4))) == "mma_and"
    assert family(Conv(64, 16, (8, 8))) == "mma_and"


def gemm_of(rows: int, bits: int, columns: int) -> Gemm:
    return Gemm.of(Problem(rows, 1, 1, bits, columns))


def test_the_model_chooses_wide_tiles_for_much_work_and_narrow_ones_for_little() -> None:
    big = tile_for(gemm_of(4096, 4096, 4096))
    assert (big.columns, big.ordered) == (256, 1)
    assert tile_for(gemm_of(64, 4096, 4096)).columns == 32
    assert tile_for(gemm_of(8192, 8192, 8192)).columns == 128  # 256 have no room
    assert tile_for(gemm_of(10**6, 1024, 64)).columns == 64
    assert tile_for(gemm_of(10**6, 1024, 250)).columns == 256
    assert tile_for(gemm_of(10**6, 1024, 320)).columns == 192  # 256 would compute 512


def test_every_tile_fits_a_multiprocessor() -> None:
    for gemm in (gemm_of(4096, 4096, 4096), gemm_of(64, 25088, 4096), gemm_of(100, 33, 40)):
        found = tiles(gemm)
        assert len(set(found)) == len(found) >= 2
        for tile in found:
            assert tile.slots >= 3
            assert tile.blocks * (tile.shared(gemm) + 1024) <= 228 << 10


def test_does_not_take_weights_without_room() -> None:
    func = narrowed(bdense_case(64, 65536, 64, gpu(ARCH)).func)
    with pytest.raises(NotElementwiseError, match="65536 bits each do not fit"):
        wgmma_gemm.make(func, ARCH)
    assert not wgmma_gemm.takes(read_anchor(func))
    small = narrowed(bdense_case(64, 8192, 256, gpu(ARCH)).func)
    with pytest.raises(NotElementwiseError, match="more than a multiprocessor has"):
        wgmma_gemm.make(small, ARCH, Tile(256))


#: Products whose tiles hold the most registers.
CODES: dict[str, tuple[Callable[..., Case], tuple[Any, ...], Tile]] = {
    "256 columns": (bconv2d_case, (Conv(256, 256, (14, 14)),), Tile(256)),
    "two blocks": (bconv2d_case, (Conv(256, 256, (14, 14)),), Tile(64, blocks=2)),
    "copies of words": (bconv2d_case, (Conv(96, 192, (14, 14)),), Tile(192)),
    "dense": (bdense_case, (256, 4096, 256), Tile(256)),
}


def code_with(name: str, kind: str) -> Code:
    case, shape, tile = CODES[name]
    func = narrowed(case(*shape, gpu(ARCH), kind).func)
    return code_of(wgmma_gemm.make(func, ARCH, tile, blocks=1), ARCH)


@needs_disassembler
@pytest.mark.parametrize("name", CODES if WHOLE else ["256 columns"])
def test_the_machine_code_is_native(name: str) -> None:
    for kind in EPILOGUES if WHOLE else ["threshold"]:
        code = code_with(name, kind)
        code.check()
        assert code.count("BGMMA") >= 4
        assert code.count("UBLKCP") >= 1
        assert code.count("LDGSTS") >= 4
        assert "used 5 barriers" in code.said
        assert code.registers * 256 * CODES[name][2].blocks <= 65536


@needs_disassembler
def test_the_model_counts_the_instructions_that_there_are() -> None:
    code = code_with("dense", "threshold")
    stage = code.loop_with("BGMMA", "LDGSTS", "POPC")
    assert len(stage) == pytest.approx(STAGE, rel=0.1)
    turn = code.loop_with("BGMMA", "STG")
    assert (len(turn) - len(stage)) / 128 == pytest.approx(OUTPUT, rel=0.1)

# SPDX-License-Identifier: Apache-2.0
"""Products on Hopper's warpgroup tensor cores count exactly, and are native code."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.cuda.emulator import cuda_target, device_source, has_compiler, lower
from tests.cuda.machine_code import disassemble, needs_disassembler
from tests.ops.kernel_cases import EPILOGUES, Conv, bconv2d_case, bdense_case
from tests.schedules.cuda.kernels import CONVS, DENSE, UNPACKED, WHOLE, check
from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda import wgmma_gemm
from xnortvm.schedules.cuda.dispatch import make_kernel
from xnortvm.schedules.cuda.epilogue import NotElementwiseError, narrowed
from xnortvm.schedules.cuda.gemm import Gemm
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


@needs_gxx
@pytest.mark.parametrize("tile", wgmma_gemm.TILES if WHOLE else wgmma_gemm.TILES[:2], ids=str)
def test_every_tile_is_exact(tile: wgmma_gemm.Tile) -> None:
    conv = Conv(160, 70, (9, 15), strides=(1, 2), images=2)
    case = bconv2d_case(conv, gpu(ARCH), "threshold")
    check(case, lambda func: wgmma_gemm.make(func, ARCH, tile=tile), ARCH)


@pytest.mark.parametrize("arch", ["sm_90", "sm_80", "sm_120"])
def test_only_hoppers_own_architecture_has_it(arch: str) -> None:
    func = bconv2d_case(Conv(64, 64, (8, 8)), gpu(arch)).func
    assert not make_kernel(func, arch)[1].startswith("wgmma")
    with pytest.raises(NotElementwiseError, match=f"{arch} has no wgmma"):
        wgmma_gemm.make(narrowed(func), arch)


def test_the_table_leaves_small_products_to_warps() -> None:
    def family(conv: Conv) -> str:
        return make_kernel(bconv2d_case(conv, gpu(ARCH)).func, ARCH)[1]

    assert family(Conv(64, 64, (8, 8))) == "wgmma_gemm"
    assert family(Conv(64, 64, (4, 4))) == "mma_and"
    assert family(Conv(64, 16, (8, 8))) == "mma_and"


def test_two_blocks_fit_a_multiprocessor() -> None:
    for tile in wgmma_gemm.TILES:
        assert 2 * (tile.shared + 1024) <= 227 << 10
    big = Gemm.of(Problem(256, 14, 14, 256, 256, kernel=(3, 3), padding=(1, 1, 1, 1)))
    assert wgmma_gemm.tile_for(big).columns == 128


@needs_disassembler
@pytest.mark.parametrize("tile", wgmma_gemm.TILES if WHOLE else wgmma_gemm.TILES[:1], ids=str)
def test_the_machine_code_is_native(tile: wgmma_gemm.Tile) -> None:
    for kind in EPILOGUES if WHOLE else ["threshold"]:
        func = narrowed(bconv2d_case(Conv(256, 256, (14, 14)), gpu(ARCH), kind).func)
        target = cuda_target(ARCH)
        _, device = lower(wgmma_gemm.make(func, ARCH, tile=tile), target)
        code, said = disassemble(device_source(device, target), ARCH)
        ops = Counter(code)
        assert sum(count for op, count in ops.items() if op.startswith("BGMMA")) >= 5
        assert not [op for op in ops if re.match(r"CALL|IMMA|LDL|STL", op)]
        assert any(op.startswith("LDGSTS.E.BYPASS.128") for op in ops)
        assert " 0 bytes spill stores" in said
        assert "C7510" not in said  # products one after the other
        assert int(re.findall(r"Used (\d+) registers", said)[0]) * tile.threads * 2 <= 65536

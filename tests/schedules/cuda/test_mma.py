# SPDX-License-Identifier: Apache-2.0
"""Warp-level tensor-core kernels count exactly, whatever the shape, and are native code."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.cuda.emulator import has_compiler
from tests.cuda.machine_code import code_of, needs_disassembler
from tests.ops.kernel_cases import EPILOGUES, Conv, bconv2d_case, bdense_case
from tests.schedules.cuda.kernels import CONVS, DENSE, UNPACKED, WHOLE, check
from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda import mma
from xnortvm.schedules.cuda.dispatch import make_kernel
from xnortvm.schedules.cuda.epilogue import NotElementwiseError, narrowed
from xnortvm.schedules.cuda.gemm import Gemm
from xnortvm.schedules.cuda.weights import LANES, WeightLayout, prepare, without_bits
from xnortvm.schedules.isa import gpu

needs_gxx = pytest.mark.skipif(not has_compiler(), reason="the emulator compiles with g++")
ARCHES = ("sm_75", "sm_80", "sm_90")

#: Of all combinations: each shape once, so that each architecture and each epilogue has its turn.
SAMPLED = [
    (name, EPILOGUES[i % len(EPILOGUES)], ARCHES[i % len(ARCHES)]) for i, name in enumerate(CONVS)
]
GRID = [(name, kind, arch) for name in CONVS for kind in EPILOGUES for arch in ARCHES]


@needs_gxx
@pytest.mark.parametrize(("name", "kind", "arch"), GRID if WHOLE else SAMPLED)
def test_convolutions_are_exact(name: str, kind: str, arch: str) -> None:
    case = bconv2d_case(CONVS[name], gpu(arch), kind)
    if name == UNPACKED and kind in ("threshold", "pack", "two outputs"):
        with pytest.raises(NotElementwiseError, match="do not fill words"):
            mma.make(narrowed(case.func), arch)
        return
    check(case, lambda func: mma.make(func, arch), arch)


@needs_gxx
@pytest.mark.parametrize("arch", ARCHES if WHOLE else ["sm_90"])
@pytest.mark.parametrize("name", DENSE)
def test_dense_layers_are_exact(name: str, arch: str) -> None:
    for kind in EPILOGUES if WHOLE else ["two outputs"]:
        case = bdense_case(*DENSE[name], gpu(arch), kind)
        check(case, lambda func: mma.make(func, arch), arch)


@needs_gxx
@pytest.mark.parametrize("tile", mma.TILES if WHOLE else mma.TILES[:1], ids=str)
@pytest.mark.parametrize("arch", ARCHES if WHOLE else ["sm_90"])
def test_every_tile_is_exact(tile: mma.Tile, arch: str) -> None:
    conv = Conv(160, 70, (9, 15), strides=(1, 2), images=2)
    case = bconv2d_case(conv, gpu(arch), "threshold")
    check(case, lambda func: mma.make(func, arch, tile=tile), arch)


@needs_gxx
def test_both_operations_of_ampere_are_exact() -> None:
    case = bconv2d_case(CONVS["stride 2, 2 words"], gpu("sm_80"), "threshold")
    check(case, lambda func: mma.make(func, "sm_80", form=mma.FORMS["sm_90"]), "sm_80")


def test_masked_weights_and_few_channels_are_left_to_cuda_cores() -> None:
    for conv in (Conv(64, 64, (4, 4), masked=True), Conv(64, 4, (4, 4)), Conv(40, 64, groups=2)):
        case = bconv2d_case(conv, gpu("sm_80"))
        assert not make_kernel(case.func, "sm_80")[1].startswith("mma")


@pytest.mark.parametrize(
    ("arch", "family"),
    [("sm_75", "mma_xor"), ("sm_89", "mma_xor"), ("sm_90", "mma_and"), ("sm_120", "")],
)
def test_the_table_chooses_what_is_native(arch: str, family: str) -> None:
    _, name = make_kernel(bconv2d_case(Conv(64, 64, (4, 4)), gpu(arch)).func, arch)
    assert name == family if family else not name.startswith("mma")


def test_tiles_fit_the_work_and_the_chip() -> None:
    def tile(images: int, size: int, channels: int) -> tuple[int, int]:
        problem = Problem(images, size, size, 32, channels)
        return mma.tile_for(Gemm.of(problem)).block

    assert tile(2, 96, 128) == (96, 128)
    assert tile(8, 56, 64) == (128, 64)
    assert tile(1, 3, 32) == (64, 32)
    assert all(each.stage.size * 4 * each.stages <= 48 << 10 for each in mma.TILES)


def test_prepared_weights_hold_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    w = rng.integers(0, 2**32, (6, 3, 3, 1), dtype=np.uint32)
    plain = WeightLayout(1, 2, 16, 12, counts=True)
    rows, counts = prepare(w, plain)
    assert rows.shape == plain.shape == (32, 12)
    groups = rows.reshape(2, 16, 12)
    assert not groups[:, [LANES.index(c) for c in range(3, 16)]].any()
    for channel in range(3):
        row = LANES.index(channel)
        np.testing.assert_array_equal(groups[:, row, :9], w.reshape(2, 3, 9)[:, channel])
        np.testing.assert_array_equal(
            counts.reshape(2, 16)[:, channel], np.bitwise_count(groups[:, row]).sum(-1)
        )
    chunked = WeightLayout(1, 2, 16, 12, chunk=4, tile=8)
    (blocks,) = prepare(w, chunked)
    assert blocks.shape == chunked.shape == (2, 2, 3, 8, 4)
    np.testing.assert_array_equal(blocks[1, 0, 2, 1], groups[1, 1, 8:12])
    assert WeightLayout.from_json(chunked.to_json()) == chunked
    assert json.loads(plain.to_json())["counts"] is True


def test_weights_may_lie_in_any_order_and_leave_their_bits_to_the_base() -> None:
    w = np.random.default_rng(0).integers(0, 2**32, (2, 1, 3, 1), dtype=np.uint32)
    layout = WeightLayout(0, 1, 16, 4, base=2, order=(2, -1, 0, 1))
    (rows,) = prepare(w, layout)
    assert WeightLayout.from_json(layout.to_json()) == layout
    flat = w.reshape(2, 3)
    own = rows[[LANES.index(channel) for channel in range(2)]]
    np.testing.assert_array_equal(own[:, [2, 3, 0]], flat)
    np.testing.assert_array_equal(own[:, 1], 0)
    base = np.arange(4, dtype=np.int32).reshape(2, 1, 2)
    expected = base - 2 * np.bitwise_count(flat).sum(-1).astype(np.int32)
    np.testing.assert_array_equal(without_bits(base, w), expected)


def test_the_pairs_of_a_lane_are_four_neighbours() -> None:
    for lane in range(4):
        columns = [8 * eight + 2 * lane + half for eight in range(2) for half in range(2)]
        assert [LANES[c] for c in columns] == [4 * lane + b for b in range(4)]


MNEMONIC = {
    "sm_75": "BMMA.88128.XOR",
    **dict.fromkeys(("sm_80", "sm_86", "sm_89"), "BMMA.168256.XOR"),
    "sm_90": "BMMA.168256.AND",
}


@needs_disassembler
@pytest.mark.parametrize("arch", MNEMONIC if WHOLE else ["sm_90"])
def test_the_machine_code_is_native(arch: str) -> None:
    conv = Conv(128, 128, (28, 28))
    for kind in EPILOGUES if WHOLE else ["threshold"]:
        func = narrowed(bconv2d_case(conv, gpu(arch), kind).func)
        for tile in mma.TILES if WHOLE else mma.TILES[1:2]:
            code = code_of(mma.make(func, arch, tile=tile), arch)
            code.check()
            steps = tile.words // mma.STEP * (tile.rows // 16) * (tile.columns // 8)
            assert code.count(MNEMONIC[arch]) >= steps * (4 if arch == "sm_75" else 1)
            assert code.count("LDG" if arch == "sm_75" else "LDGSTS", ".128")
            assert code.count("LDSM.16.M88.4")

# SPDX-License-Identifier: Apache-2.0
"""Kernels for CUDA cores compute what NumPy computes; the generated source runs on the emulator."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tests.cuda.emulator import Program, has_compiler
from tests.ops.kernel_cases import (
    EPILOGUES,
    Case,
    Conv,
    bconv2d_case,
    bdense_case,
    bsum2d_case,
    conv2d_case,
    dense_case,
    sampled,
)
from xnortvm._tvm import tirx
from xnortvm.errors import CompileError
from xnortvm.schedules.cuda.dispatch import FAMILIES, families_for, make_kernel
from xnortvm.schedules.cuda.epilogue import narrowed, read_anchor
from xnortvm.schedules.cuda.tile import Tile, tile
from xnortvm.schedules.isa import gpu

pytestmark = pytest.mark.skipif(not has_compiler(), reason="the emulator compiles with g++")

ARCH = "sm_80"
GPU = gpu(ARCH)
MAKE = {family.name: family.make for family in FAMILIES}


def check(case: Case, family: str) -> None:
    func = MAKE[family](narrowed(case.func), ARCH)
    outputs = Program(func, ARCH).run(*case.inputs)
    for output, expected in zip(outputs, case.expected, strict=True):
        np.testing.assert_array_equal(output, expected, err_msg=f"{family} {case.name}")


#: One of everything: odd sizes, padding by each value, strides, dilation, batch, zeros as weights.
CONVS = [
    Conv(64, 64, (7, 7)),
    Conv(33, 40, (5, 6), pad_value=-1, images=2),
    Conv(96, 65, (8, 6), strides=(2, 2), masked=True),
    Conv(128, 32, (9, 9), dilation=(2, 2), padding=(2, 2, 2, 2), pad_value=1),
    Conv(300, 10, (4, 13), kernel=(1, 1), padding=(0, 0, 0, 0)),
    Conv(32, 96, (6, 5), kernel=(5, 3), strides=(1, 2), padding=(1, 0, 2, 1)),
]


@pytest.mark.parametrize("family", ["tile", "direct"])
def test_packed_convolutions_are_exact(family) -> None:
    for seed, conv in enumerate(CONVS):
        check(bconv2d_case(conv, GPU, EPILOGUES[seed % len(EPILOGUES)], seed=seed), family)


@pytest.mark.parametrize("kind", EPILOGUES)
def test_every_epilogue_is_exact(kind) -> None:
    check(bconv2d_case(Conv(40, 72, (5, 5), images=2), GPU, kind), "tile")


def test_groups_are_exact() -> None:
    convs = [
        Conv(64, 64, (5, 5), groups=2),
        Conv(24, 24, (5, 7), groups=24),
        Conv(136, 40, (4, 4), groups=4, pad_value=-1, masked=True),
    ]
    for conv in convs:
        check(bconv2d_case(conv, GPU, "threshold"), "direct")


@pytest.mark.parametrize("family", ["tile", "direct"])
def test_dense_layers_are_exact(family) -> None:
    check(bdense_case(3, 65, 33, GPU, "two outputs", masked=True), family)
    check(bdense_case(1, 4608, 40, GPU, "threshold"), family)


def test_dense_layers_of_few_rows_are_exact() -> None:
    check(bdense_case(3, 65, 33, GPU, "two outputs", masked=True), "gemv")
    check(bdense_case(1, 4608, 40, GPU, "threshold"), "gemv")
    check(dense_case((2,), 30, 70, GPU), "gemv")
    conv = Conv(96, 40, (1, 1), (1, 1), padding=(0, 0, 0, 0), images=2)
    check(bconv2d_case(conv, GPU, "pack"), "gemv")


@pytest.mark.parametrize("family", ["tile", "direct"])
def test_float_layers_are_exact_on_small_integers(family) -> None:
    check(conv2d_case(Conv(3, 40, (9, 9), (7, 7), (2, 2), (3, 3, 3, 3)), GPU, "pack"), family)
    check(conv2d_case(Conv(20, 130, (5, 5), (1, 1), padding=(0, 0, 0, 0)), GPU), family)
    check(dense_case((2,), 30, 70, GPU), family)


def test_the_table_chooses_by_shape() -> None:
    def first(case: Case, arch: str) -> str:
        return families_for(read_anchor(case.func), arch)[0].name

    assert first(bdense_case(1, 64, 32, GPU), "sm_90a") == "gemv"
    assert first(bconv2d_case(Conv(), GPU), "sm_120") == "tile"
    assert first(bconv2d_case(Conv(24, 24, groups=24), GPU), "sm_120") == "direct"
    assert first(conv2d_case(Conv(), GPU), "sm_90a") == "tile"


def test_a_function_without_a_kernel_is_refused_by_its_layer() -> None:
    func = dense_case((2,), 30, 70, GPU).func.with_attr("xnortvm.layer", ["head.scatter"])
    loops = func.with_body(tirx.Evaluate(tirx.const(0, "int32")))
    with pytest.raises(CompileError, match=r"no kernel for sm_80 computes head\.scatter: .*CPU"):
        make_kernel(loops, ARCH)


def test_float_layers_of_other_forms_are_exact() -> None:
    check(conv2d_case(Conv(24, 24, (5, 5), groups=24), GPU, "residual"), "direct")
    check(dense_case((2, 3), 8, 20, GPU), "direct")


def test_sums_over_windows_are_exact() -> None:
    check(bsum2d_case(Conv(64, 64, (5, 5))), "fallback")


@pytest.mark.parametrize(
    "made", [Tile(1, 1, 1, True), Tile(8, 2, 9, True), Tile(8, 3, 3, False), Tile(2, 2, 7, True)]
)
def test_every_tile_is_exact(made) -> None:
    """Once all bits differ, so that every adder carries as often as it can."""
    conv = Conv(512, 70, (4, 5), padding=(0, 0, 0, 0))
    case = bconv2d_case(conv, GPU)
    program = Program(tile(narrowed(case.func), ARCH, made), ARCH)
    a, w, base = case.inputs
    np.testing.assert_array_equal(program.run(a, w, base)[0], case.expected[0])
    (differing,) = program.run(np.full_like(a, 0xFFFFFFFF), np.zeros_like(w), base)
    np.testing.assert_array_equal(differing, np.full_like(differing, -512 * 9))


@pytest.mark.skipif("XNORTVM_CUDA_GRID" not in os.environ, reason="make test-cuda runs the grid")
def test_packed_convolutions_are_exact_over_the_grid() -> None:
    for seed, conv in enumerate(sampled(60, seed=7)):
        kind = EPILOGUES[seed % len(EPILOGUES)]
        families = ["direct"] if conv.groups > 1 else ["tile", "direct"]
        for family in families:
            check(bconv2d_case(conv, GPU, kind, seed=seed), family)

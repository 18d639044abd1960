# SPDX-License-Identifier: Apache-2.0
"""Unscheduled kernels are exact: what is computed, apart from how."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ops.kernel_cases import (
    EPILOGUES,
    Conv,
    bconv2d_case,
    bdense_case,
    bsum2d_case,
    check,
    conv2d_case,
    dense_case,
    sampled,
)
from xnortvm.schedules.isa import ISAS

AVX2, GENERIC = ISAS["avx2"], ISAS["generic"]
WORDS = ISAS["avx512vpopcntdq"]


@pytest.mark.parametrize("isa", [GENERIC, WORDS], ids=lambda isa: isa.popcount)
def test_packed_convolutions_are_exact_over_the_grid(isa) -> None:
    check([bconv2d_case(conv, isa, seed=i) for i, conv in enumerate(sampled(24, seed=1))])


def test_epilogues_are_exact_unscheduled() -> None:
    convs = [Conv(outputs=outputs) for outputs in (32, 40)]
    check([bconv2d_case(conv, GENERIC, kind) for conv in convs for kind in EPILOGUES])


@pytest.mark.parametrize("isa", [GENERIC, WORDS], ids=lambda isa: isa.popcount)
def test_byte_lanes_never_overflow(isa) -> None:
    """All bits differ, so that every byte holds as much as it ever can."""
    cases = []
    for channels, kernel in ((512, 3), (992, 1), (2048, 3), (8192, 1), (96, 7)):
        conv = Conv(channels, 8, (kernel, kernel), (kernel, kernel), padding=(0, 0, 0, 0))
        case = bconv2d_case(conv, isa)
        case.inputs[0] = np.full_like(case.inputs[0], 0xFFFFFFFF)
        case.inputs[1] = np.zeros_like(case.inputs[1])
        case.expected = [np.full((1, 1, 1, 8), -channels * kernel * kernel, np.int32)]
        cases.append(case)
    check(cases)


def test_dense_layers_are_exact() -> None:
    shapes = [(1, 1, 1), (1, 300, 10), (3, 65, 33), (2, 4608, 16), (1, 2048, 8), (5, 32, 64)]
    check([bdense_case(*shape, isa) for shape in shapes for isa in (GENERIC, WORDS)])


def test_dense_layers_with_zero_weights_are_exact() -> None:
    shapes = [(1, 1, 1), (1, 300, 10), (3, 65, 33), (5, 32, 64)]
    check([bdense_case(*shape, isa, masked=True) for shape in shapes for isa in (GENERIC, WORDS)])


def test_sums_over_windows_are_exact_over_the_grid() -> None:
    check([bsum2d_case(conv, i % 3 - 1, seed=i) for i, conv in enumerate(sampled(24, seed=3))])


def test_float_convolutions_are_exact_on_small_integers() -> None:
    check([conv2d_case(conv, AVX2, seed=i) for i, conv in enumerate(sampled(16, seed=2))])


def test_depthwise_convolutions_are_exact() -> None:
    convs = [
        Conv(channels, channels * factor, (5, 7), groups=channels)
        for channels, factor in ((8, 1), (24, 1), (40, 1), (8, 2), (6, 3))
    ]
    check([conv2d_case(conv, AVX2) for conv in convs])
    check([bconv2d_case(conv, AVX2) for conv in convs])


def test_float_dense_layers_are_exact_on_small_integers() -> None:
    check([dense_case((2,), 30, 10, AVX2), dense_case((2, 3), 8, 1000, AVX2)])

# SPDX-License-Identifier: Apache-2.0
"""Scheduled convolutions and dense layers are exact on every instruction set's tiling.

The 512-bit tiling runs on any x86: LLVM splits the vectors.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from tests.ops.kernel_cases import (
    EPILOGUES,
    HOST,
    Case,
    Conv,
    bconv2d_case,
    bdense_case,
    check,
    conv2d_case,
    dense_case,
    sampled,
    scheduled,
)
from xnortvm.schedules import schedule_function
from xnortvm.schedules.isa import ISAS, Isa

SSE2_TARGET = {"kind": "llvm", "mcpu": "x86-64"}

#: Instruction set → target that runs it here. Byte sums by shifts need no AVX512BW.
TILINGS = {
    "avx2": (ISAS["avx2"], HOST),
    "sse4": (ISAS["sse4"], HOST),
    "sse2": (ISAS["sse2"], SSE2_TARGET),
    "avx512vpopcntdq": (ISAS["avx512vpopcntdq"], HOST),
    "avx512bw": (replace(ISAS["avx512bw"], sum_bytes="shifts", table="portable"), HOST),
    "generic": (ISAS["generic"], SSE2_TARGET),
    "neon": (replace(ISAS["neon"], sum_bytes="shifts", pairwise="portable", pack="reduce4"), HOST),
}

tilings = pytest.mark.parametrize("name", TILINGS)


def check_scheduled(cases: list[Case], isa: Isa, target: dict, num_threads: int = 1) -> None:
    rule = partial(schedule_function, isa=isa, num_threads=num_threads)
    done = scheduled(cases, rule)
    assert not [c.name for c in done if c.func.attrs["xnortvm.schedule"].startswith("default")]
    check(done, target)


@tilings
def test_packed_convolutions_are_exact_over_the_grid(name: str) -> None:
    isa, target = TILINGS[name]
    convs = sampled(20, seed=sum(map(ord, name)))
    cases = [
        bconv2d_case(conv, isa, EPILOGUES[i % len(EPILOGUES)], seed=i)
        for i, conv in enumerate(convs)
    ]
    check_scheduled(cases, isa, target)


@tilings
def test_long_reductions_are_exact(name: str) -> None:
    isa, target = TILINGS[name]
    convs = [Conv(512, 32, (3, 4)), Conv(1184, 16, (2, 2)), Conv(2048, 32, (3, 3))]
    check_scheduled([bconv2d_case(conv, isa, "two outputs") for conv in convs], isa, target)


@tilings
def test_dense_layers_are_exact(name: str) -> None:
    isa, target = TILINGS[name]
    cases = [
        bdense_case(*shape, isa, EPILOGUES[i % len(EPILOGUES)])
        for i, shape in enumerate(
            [(1, 1, 1), (1, 300, 10), (3, 65, 33), (2, 4608, 16), (1, 2048, 96), (4, 512, 1000)]
        )
    ]
    cases += [dense_case((1,), 64, 1000, isa), dense_case((2, 5), 33, 10, isa)]
    check_scheduled(cases, isa, target)


@tilings
def test_float_convolutions_are_exact_on_small_integers(name: str) -> None:
    isa, target = TILINGS[name]
    convs = [
        *sampled(8, seed=5),
        Conv(3, 64, (14, 14), (7, 7), (2, 2), (3, 3, 3, 3)),
        Conv(32, 40, (5, 13), groups=4),
        Conv(48, 48, (7, 7), groups=48),
    ]
    kinds = ("accumulator", "residual", "two outputs")
    cases = [conv2d_case(c, isa, kinds[i % 3], seed=i) for i, c in enumerate(convs)]
    check_scheduled(cases, isa, target)


def test_parallel_schedules_are_exact() -> None:
    isa, target = TILINGS["avx2"]
    cases = [bconv2d_case(Conv(size=(9, 9)), isa, kind) for kind in EPILOGUES]
    cases += [conv2d_case(Conv(size=(9, 9)), isa, "residual"), dense_case((1,), 64, 512, isa)]
    check_scheduled(cases, isa, target, num_threads=2)

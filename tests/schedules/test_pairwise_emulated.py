# SPDX-License-Identifier: Apache-2.0
"""The kernels of AArch64, on an emulated processor, are exact whatever the layer looks like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.ops.kernel_cases import (
    EPILOGUES,
    Case,
    Conv,
    bconv2d_case,
    bdense_case,
    form_for,
    sampled,
)
from tests.schedules.emulated import check_emulated
from xnortvm.schedules.isa import isa_of
from xnortvm.target import resolve

TARGETS = {name: resolve(f"llvm -mcpu={name}") for name in ("cortex-a72", "cortex-a53")}
ISA = isa_of(TARGETS["cortex-a72"])

#: Form → convolutions that take it.
FORMS = {
    "pairwise": [
        Conv(128, 64, (7, 7)),
        Conv(256, 96, (4, 13), strides=(2, 2)),
        Conv(128, 40, (5, 6), (5, 5), padding=(2, 2, 2, 2), pad_value=-1),
        Conv(128, 33, (4, 5), (1, 1), padding=(0, 0, 0, 0)),
        Conv(192, 40, (6, 7)),  # runs of words that no vector divides
        Conv(300, 32, (5, 7), (1, 3), pad_value=1),
        Conv(480, 24, (5, 4), (1, 1), padding=(0, 0, 0, 0), images=2),
        Conv(128, 64, (6, 6), masked=True),
        Conv(300, 33, (6, 6), masked=True),
        Conv(256, 64, (6, 6), groups=2),
        Conv(128, 32, (5, 5), dilation=(2, 2), padding=(2, 2, 2, 2)),
    ],
    "paired": [
        Conv(64, 64, (8, 6)),
        Conv(64, 40, (5, 7), (5, 5), padding=(2, 2, 2, 2), pad_value=-1),
        Conv(40, 32, (6, 7), dilation=(2, 2)),
        Conv(64, 33, (1, 5), (1, 1), padding=(0, 0, 0, 0), images=3),
        Conv(64, 8, (3, 4), (33, 33), padding=(16, 16, 16, 16)),  # more than 16 bits hold
    ],
    "byte": [
        Conv(64, 64, (8, 6), strides=(2, 2)),
        Conv(31, 32, (6, 6)),
        Conv(256, 32, (6, 6), groups=8),
        Conv(64, 16, (5, 5), masked=True),
    ],
}


def largest_sums(form: str) -> Case:
    """Return a convolution whose bits all differ, more of them than 16 bits can count."""
    size = (6, 6) if form == "pairwise" else (33, 33)
    channels = 2048 if form == "pairwise" else 64
    conv = Conv(channels, 8, (size[0], size[1] + 1), size, padding=(0, 0, 0, 0))
    case = bconv2d_case(conv, ISA)
    case.inputs[0] = np.full_like(case.inputs[0], 0xFFFFFFFF)
    case.inputs[1] = np.zeros_like(case.inputs[1])
    case.expected = [np.full_like(case.expected[0], -channels * size[0] * size[1])]
    return case


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_is_counted_by_the_fastest_form(form: str) -> None:
    assert [form_for(conv, ISA).name for conv in FORMS[form]] == [form] * len(FORMS[form])


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_exact_with_every_epilogue(form: str, name: str) -> None:
    convs = FORMS[form]
    cases = [
        bconv2d_case(conv, ISA, EPILOGUES[i % len(EPILOGUES)], seed=i)
        for i, conv in enumerate(convs)
    ]
    cases += [bconv2d_case(convs[0], ISA, kind) for kind in EPILOGUES[1:]]
    if form != "byte":
        cases.append(largest_sums(form))
    check_emulated(cases, TARGETS[name], ISA)


def test_counting_without_intrinsics_is_exact() -> None:
    portable = replace(ISA, pairwise="portable", sum_bytes="shifts")
    convs = [*FORMS["pairwise"][::3], *FORMS["paired"][::2]]
    cases = [bconv2d_case(conv, portable, EPILOGUES[i % 2], seed=i) for i, conv in enumerate(convs)]
    check_emulated(cases, TARGETS["cortex-a72"], ISA)


def test_dense_layers_of_any_width_are_exact() -> None:
    shapes = [(1, 128, 8), (3, 256, 40), (1, 4096, 64), (5, 192, 33), (1, 70000, 9), (2, 66048, 16)]
    cases = [
        bdense_case(*shape, ISA, EPILOGUES[i % len(EPILOGUES)], masked=i % 2 == 1)
        for i, shape in enumerate(shapes)
    ]
    check_emulated(cases, TARGETS["cortex-a72"], ISA)


def test_convolutions_are_exact_over_the_grid() -> None:
    cases = [
        bconv2d_case(conv, ISA, EPILOGUES[i % len(EPILOGUES)], seed=i)
        for i, conv in enumerate(sampled(16, seed=7))
    ]
    check_emulated(cases, TARGETS["cortex-a72"], ISA)

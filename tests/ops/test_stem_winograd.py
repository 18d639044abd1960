# SPDX-License-Identifier: Apache-2.0
"""Winograd's method agrees with the definition of a convolution, in every shape and tiling."""

from __future__ import annotations

import itertools
import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import tvm

from tests.ops.kernel_cases import HOST, Case, Conv, build
from xnortvm.ops import reference
from xnortvm.ops.stem_reference import winograd
from xnortvm.ops.stem_winograd import blocked_winograd_weight, winograd_te
from xnortvm.ops.winograd_tile import (
    MOST_OUTPUTS,
    MOST_POINTS,
    MOST_POINTS_TOGETHER,
    Axis,
    choose_tile,
    group_of,
)
from xnortvm.schedules import schedule_function
from xnortvm.schedules.isa import ISAS, Isa

te = tvm.te

#: Of the largest output, for float32.
BOUND = 4e-6

TILINGS = {
    "avx512vpopcntdq": HOST,
    "avx2": HOST,
    "sse2": {"kind": "llvm", "mcpu": "x86-64"},
}

CONVS = [
    Conv(3, 64, (30, 30), (7, 7), (2, 2), (3, 3, 3, 3)),
    Conv(1, 1, (9, 11), (3, 3), (1, 1), (1, 1, 1, 1)),
    Conv(4, 31, (17, 12), (5, 5), (1, 1), (0, 0, 0, 0)),
    Conv(3, 33, (27, 31), (11, 11), (4, 4), (1, 3, 0, 2), images=3),
    Conv(1, 16, (13, 8), (3, 3), (2, 2), (1, 0, 2, 1)),
    Conv(3, 32, (20, 9), (5, 5), (2, 2), (2, 2, 2, 2), images=3),
    Conv(4, 64, (1, 40), (1, 7), (1, 2), (0, 3, 0, 3)),
    Conv(2, 8, (14, 15), (3, 5), (2, 1), (0, 1, 1, 3)),
    Conv(3, 20, (8, 8), (2, 4), (1, 4), (0, 0, 0, 0)),
    Conv(6, 40, (7, 7), (3, 3), (1, 1), (3, 3, 3, 3)),
    Conv(2, 32, (4, 16), (3, 3), (1, 1), (0, 0, 0, 0)),
]


def tiles_of(conv: Conv) -> list[tuple[int, int]]:
    """Return every tile that the choice may make."""
    found = []
    sizes = range(1, MOST_OUTPUTS + 1)
    for tile in itertools.product(sizes, sizes):
        y, x = axes_of(conv, tile)
        allowed = max(y.points, x.points) <= MOST_POINTS
        if allowed and y.points + x.points <= MOST_POINTS_TOGETHER:
            found.append(tile)
    return found


def axes_of(conv: Conv, tile: tuple[int, int]) -> tuple[Axis, Axis]:
    y, x = (Axis(*of) for of in zip(conv.kernel, conv.strides, conv.map, tile, strict=True))
    return y, x


def winograd_case(conv: Conv, tile: tuple[int, int], isa: Isa, last: bool, relu: bool) -> Case:
    """Return a convolution of normal random numbers; expected in float64."""
    rng = np.random.default_rng(sum(conv.kernel) + conv.outputs)
    image = rng.standard_normal((conv.images, *conv.size, conv.channels)).astype(np.float32)
    w = rng.standard_normal((conv.outputs, *conv.kernel, conv.channels)).astype(np.float32)
    axes = axes_of(conv, tile)
    x = image if last else np.ascontiguousarray(image.transpose(0, 3, 1, 2))
    blocked = blocked_winograd_weight(w, *axes, isa.lanes)
    px, pw = te.placeholder(x.shape, "float32", "x"), te.placeholder(blocked.shape, "float32", "w")
    result = winograd_te(
        px,
        pw,
        outputs=conv.outputs,
        padding=conv.padding[:2],
        channels_last=last,
        axes=axes,
        group=group_of(axes[1].tiles, isa.float_registers - 1),
        lanes=isa.lanes,
    )
    expected = reference.conv2d(image.astype(np.float64), w.astype(np.float64), **conv.geometry)
    if relu:
        zero = tvm.tirx.const(0, "float32")
        result = te.compute(result.shape, lambda *i: te.max(result(*i), zero), name="relu")
        expected = np.maximum(expected, 0)
    func = te.create_prim_func([px, pw, result])
    return Case(f"{conv} {tile}", func, [x, blocked], [expected])


def errors(cases: list[Case], target: dict[str, Any]) -> dict[str, float]:
    """Return the largest difference of every case, of its largest output."""
    library = build(cases, target)
    found = {}
    for i, case in enumerate(cases):
        inputs = [tvm.runtime.tensor(np.ascontiguousarray(array)) for array in case.inputs]
        (expected,) = case.expected
        output = tvm.runtime.tensor(np.full(expected.shape, np.nan, np.float32))
        library[f"case{i}"](*inputs, output)
        found[case.name] = np.abs(output.numpy() - expected).max() / np.abs(expected).max()
    return found


@pytest.mark.parametrize("name", TILINGS)
def test_every_shape_agrees_with_float64(name: str) -> None:
    isa = ISAS[name]
    draw = random.Random(name)
    cases = [
        winograd_case(conv, draw.choice(tiles_of(conv)), isa, last=i % 2 == 0, relu=i % 3 == 0)
        for i, conv in enumerate(CONVS)
    ]
    rule = partial(schedule_function, isa=isa, num_threads=1 + (name == "avx2"))
    for case in cases:
        case.func = rule(case.func)
        assert case.func.attrs["xnortvm.schedule"] == f"winograd.{name}"
    found = errors(cases, TILINGS[name])
    assert max(found.values()) < BOUND, found


def test_without_a_schedule_it_computes_the_same() -> None:
    cases = [winograd_case(CONVS[0], (3, 4), ISAS["avx2"], last=False, relu=False)]
    assert max(errors(cases, HOST).values()) < BOUND


@pytest.mark.parametrize("index", range(len(CONVS)))
def test_the_reference_has_the_rounding_of_the_method(index: int) -> None:
    conv = CONVS[index]
    case = winograd_case(conv, (2, 2), ISAS["sse2"], last=True, relu=False)
    rng = np.random.default_rng(sum(conv.kernel) + conv.outputs)
    rng.standard_normal((conv.images, *conv.size, conv.channels))
    w = rng.standard_normal((conv.outputs, *conv.kernel, conv.channels)).astype(np.float32)
    for tile in random.Random(index).sample(tiles_of(conv), 2):
        result = winograd(case.inputs[0], w, axes_of(conv, tile), list(conv.padding))
        assert result.dtype == np.float32
        error = np.abs(result - case.expected[0]).max() / np.abs(case.expected[0]).max()
        assert 0 < error < BOUND


def test_a_tile_is_only_taken_where_it_saves_work() -> None:
    stem, gain = choose_tile((7, 7), (2, 2), (112, 112), 3, 64)
    assert stem in ((3, 4), (4, 3))
    assert gain > 2
    assert choose_tile((11, 11), (4, 4), (55, 55), 3, 64)[1] > 2
    assert choose_tile((1, 1), (1, 1), (56, 56), 64, 64)[1] < 1
    assert choose_tile((3, 3), (2, 2), (112, 112), 3, 16)[1] < 1
    assert choose_tile((13, 13), (1, 1), (56, 56), 3, 64)[1] == 0

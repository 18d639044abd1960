# SPDX-License-Identifier: Apache-2.0
"""Binary layers become packed operators that compute the same, and the report says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.relax_modules import accumulator, conv, f32, module, operators, signs
from tests.relax_reference import evaluate
from xnortvm import ops
from xnortvm._tvm import relax
from xnortvm.graph.dataflow import Graph
from xnortvm.patterns import ZeroPolicy
from xnortvm.patterns.zeros import structural_zero
from xnortvm.report import Report
from xnortvm.transform.activation import canonicalize_prelu
from xnortvm.transform.layer_sizes import AddLayerSizes
from xnortvm.transform.lower_binary import LowerBinary
from xnortvm.transform.scaled_sign import sink_sign_scales

RNG = np.random.default_rng(0)
SHAPE = (2, 6, 5, 8)
WEIGHT = signs(RNG, 6, 3, 3, 8)
REAL = RNG.normal(size=(4, 1, 1, 8)).astype(np.float32)
THIRD_IS_ZERO = np.float32([1, 1, 0, 1]).reshape(4, 1, 1, 1)


def _check(body: Callable[..., Any], accept: bool = False, zeros: bool = False) -> Report:
    report = Report()
    before = module(body, SHAPE)
    after = LowerBinary(report, ZeroPolicy(accept))(sink_sign_scales(before))
    x = RNG.integers(-1, 2, SHAPE) if zeros else RNG.normal(size=SHAPE)
    x = x.astype(np.float32)
    expected = evaluate(before, x)[0]
    np.testing.assert_allclose(evaluate(after, x)[0], expected, rtol=0, atol=1e-5)
    assert "nn.conv2d" not in operators(after)
    assert "matmul" not in operators(after)
    return report


@pytest.mark.parametrize("zero", ["+1", "-1", "0"])
def test_every_sign_is_exact_on_zeros(zero: str) -> None:
    report = _check(
        lambda emit, x: conv(emit(ops.sign(x, zero=zero)), WEIGHT, padding=1), zeros=True
    )
    assert report.layers[0].bits_in == ("2" if zero == "0" else "1")


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.5, -0.5), (-2.0, 0.0), (0.3, 0.1), (1.0, 3.0)])
@pytest.mark.parametrize("padding", [0, 1])
def test_two_valued_activations(a: float, b: float, padding: int) -> None:
    def body(emit: Any, x: Any) -> Any:
        v = emit(relax.op.multiply(emit(ops.sign(x)), f32(a)))
        v = emit(relax.op.add(v, f32(b)))
        return conv(v, 0.25 * WEIGHT, padding=padding)

    _check(body)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.3, 0.1)])
def test_two_valued_rows_of_a_linear_layer(a: float, b: float) -> None:
    def body(emit: Any, x: Any) -> Any:
        v = emit(relax.op.add(emit(relax.op.multiply(emit(ops.sign(x)), f32(a))), f32(b)))
        return relax.op.matmul(v, relax.const(signs(RNG, 8, 3)))

    _check(body)


@pytest.mark.parametrize("zero", ["-1", "0"])
def test_pooled_moved_and_padded_signs(zero: str) -> None:
    def body(emit: Any, x: Any) -> Any:
        v = emit(relax.op.multiply(emit(ops.sign(x, zero=zero)), f32(0.5)))
        v = emit(relax.op.nn.max_pool2d(v, (2, 2), (1, 1), padding=1, layout="NHWC"))
        v = emit(relax.op.permute_dims(v, [0, 2, 1, 3]))
        v = emit(relax.op.nn.pad(v, [0, 0, 1, 0, 2, 1, 0, 0], pad_value=-0.5))
        return conv(v, WEIGHT)

    _check(body, zeros=True)


def test_accepted_zeros_count_as_plus_one() -> None:
    report = Report()
    mod = module(lambda emit, x: conv(emit(ops.sign(x, zero="0")), WEIGHT), SHAPE)
    after = LowerBinary(report, ZeroPolicy(accept=True))(mod)
    ones = evaluate(after, np.zeros(SHAPE, np.float32))[0]
    np.testing.assert_array_equal(ones[0, 0, 0], WEIGHT.sum(axis=(1, 2, 3)))
    assert "the network's input x0 may hold zeros" in report.layers[0].note


def test_one_sign_is_packed_once_for_two_layers() -> None:
    def body(emit: Any, x: Any) -> Any:
        v = emit(ops.sign(x))
        return relax.op.add(emit(conv(v, WEIGHT)), emit(conv(v, -WEIGHT)))

    after = LowerBinary(Report(), ZeroPolicy())(module(body, SHAPE))
    assert operators(after).count("xnortvm.bitpack") == 1


def test_sizes_count_every_constant_of_the_kernel_once() -> None:
    report = Report()
    mod = module(lambda emit, x: conv(emit(ops.sign(x, zero="0")), 0.5 * WEIGHT, padding=1), SHAPE)
    after = LowerBinary(report, ZeroPolicy())(mod)
    AddLayerSizes(report)(after)
    weights, table, scale = 6 * 9 * 4, 9 * 6 * 4, 6 * 4
    assert report.layers[0].bytes_before == 6 * 9 * 8 * 4
    assert report.layers[0].bytes_after == weights + table + scale


def test_does_not_pool_a_negative_scale_away() -> None:
    def body(emit: Any, x: Any) -> Any:
        v = emit(relax.op.multiply(emit(ops.sign(x)), f32(-1.0)))
        return relax.op.nn.max_pool2d(v, (2, 2), layout="NHWC")

    before = module(body, SHAPE)
    assert operators(sink_sign_scales(before)) == operators(before)


#: What a sign may read, and whether it can be exactly 0 on purpose.
ZEROS: dict[str, tuple[Callable[..., Any], bool]] = {
    "relu": (lambda emit, x: relax.op.nn.relu(x), True),
    "batch norm of relu": (
        lambda emit, x: ops.affine(emit(relax.op.nn.relu(x)), f32(2.0), f32(0.3)),
        False,
    ),
    "relu plus a constant": (
        lambda emit, x: relax.op.subtract(emit(relax.op.nn.relu(x)), f32(1.0)),
        False,
    ),
    "relu plus something continuous": (
        lambda emit, x: relax.op.add(emit(relax.op.nn.relu(x)), emit(relax.op.exp(x))),
        False,
    ),
    "gate": (
        lambda emit, x: relax.op.multiply(
            emit(ops.affine(x, f32(2.0), f32(0.3))), emit(relax.op.sigmoid(x))
        ),
        False,
    ),
    "clamp": (lambda emit, x: relax.op.clip(x, 0, 1), True),
    "rounding": (lambda emit, x: relax.op.round(emit(relax.op.multiply(x, f32(0.1)))), True),
    "mask": (
        lambda emit, x: relax.op.where(
            emit(relax.op.greater(x, f32(1.0))), emit(relax.op.exp(x)), f32(0.0)
        ),
        True,
    ),
    "average of signs": (
        lambda emit, x: relax.op.nn.avg_pool2d(emit(ops.sign(x)), (2, 2), layout="NHWC"),
        True,
    ),
    "odd accumulator": (lambda emit, x: _accumulator(emit, x, 7), False),
    "even accumulator": (lambda emit, x: _accumulator(emit, x, 8), True),
    "sum of odd accumulators": (
        lambda emit, x: relax.op.add(
            emit(_accumulator(emit, x, 7)), emit(_accumulator(emit, x, 7))
        ),
        True,
    ),
    "zero filter": (
        lambda emit, x: conv(emit(relax.op.exp(x)), REAL * THIRD_IS_ZERO),
        True,
    ),
    "float layer": (
        lambda emit, x: conv(emit(relax.op.exp(x)), REAL),
        False,
    ),
    "float layer of signs by ternary weights": (
        lambda emit, x: conv(emit(ops.sign(x)), RNG.integers(-1, 2, (4, 1, 1, 8)).astype("f4")),
        True,
    ),
}


def _accumulator(emit: Any, x: Any, channels: int) -> Any:
    cut = emit(relax.op.strided_slice(x, [3], [0], [channels]))
    return relax.op.astype(accumulator(emit, cut, signs(RNG, 4, 1, 1, channels)), "float32")


@pytest.mark.parametrize("name", ZEROS)
def test_zeros_that_happen_on_purpose_are_found(name: str) -> None:
    body, expected = ZEROS[name]
    graph = Graph(module(body, SHAPE)["main"])
    *_, (last, _) = graph.calls()
    reason = structural_zero(graph, last)
    assert (reason is not None) == expected, reason


def test_prelu_is_recognised_in_its_decomposed_form() -> None:
    slope = f32([0.5, -1.0], shape=(1, 2, 1, 1))

    def body(emit: Any, x: Any) -> Any:
        positive = emit(relax.op.greater(x, f32(0.0)))
        return relax.op.where(positive, x, emit(relax.op.multiply(slope, x)))

    before = module(body, (1, 2, 3, 3))
    after = canonicalize_prelu(before)
    x = RNG.normal(size=(1, 2, 3, 3)).astype(np.float32)
    assert operators(after) == ["nn.prelu"]
    np.testing.assert_array_equal(evaluate(after, x)[0], evaluate(before, x)[0])


@pytest.mark.parametrize("threshold", [0.5, -1.0])
def test_does_not_take_another_threshold_for_prelu(threshold: float) -> None:
    def body(emit: Any, x: Any) -> Any:
        positive = emit(relax.op.greater(x, f32(threshold)))
        return relax.op.where(positive, x, emit(relax.op.multiply(f32(0.5), x)))

    assert "nn.prelu" not in operators(canonicalize_prelu(module(body, (1, 2, 3, 3))))

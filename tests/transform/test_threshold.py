# SPDX-License-Identifier: Apache-2.0
"""Thresholds give the bit of the float expression at every integer."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.relax_modules import accumulator, f32, module, operators, signs
from xnortvm import ops
from xnortvm._tvm import relax
from xnortvm.graph.dataflow import Graph, op_name
from xnortvm.graph.factors import factors_of
from xnortvm.graph.integer_function import IntegerFunction
from xnortvm.report import LayerRow, Report
from xnortvm.transform.threshold import FuseThresholds, Threshold, factor_threshold, find_threshold

RNG = np.random.default_rng(0)
CHANNELS = 24
WEIGHT = signs(RNG, 4, 1, 1, CHANNELS)

numbers = st.one_of(
    st.floats(-2, 2, width=32), st.sampled_from([0.0, -0.0, 1.0, -1.0, 3.0, 1e-30, 1e30])
)
vectors = st.lists(numbers, min_size=4, max_size=4)
#: One operator of a chain: name and its constants per channel.
steps = st.one_of(
    st.tuples(st.sampled_from(["multiply", "add", "subtract"]), vectors),
    st.tuples(st.just("affine"), vectors, vectors),
    st.tuples(st.just("prelu"), st.lists(st.floats(0, 2, width=32), min_size=4, max_size=4)),
    st.tuples(st.sampled_from(["relu", "tanh", "negative", "hardtanh"])),
)


def _apply(emit: Any, x: Any, step: tuple[Any, ...]) -> Any:
    name, *constants = step
    values = [f32(c, shape=(1, 1, 1, 4)) for c in constants]
    if name == "affine":
        return emit(ops.affine(x, *values))
    if name == "prelu":
        return emit(relax.op.nn.prelu(x, f32(constants[0]), 3))
    if name == "hardtanh":
        return emit(relax.op.clip(x, -1, 1))
    op = relax.op.nn.relu if name == "relu" else getattr(relax.op, name)
    return emit(op(x, *values))


def _chain(chain: list[tuple[Any, ...]]) -> Any:
    def body(emit: Any, x: Any) -> Any:
        value = emit(relax.op.astype(accumulator(emit, x, WEIGHT), "float32"))
        for step in chain:
            value = _apply(emit, value, step)
        return ops.bitpack(value)

    return module(body, (1, 2, 2, CHANNELS))


def _last_pack(mod: Any) -> tuple[Graph, Any]:
    graph = Graph(mod["main"])
    call = [call for _, call in graph.calls() if op_name(call) == "relax.xnortvm.bitpack"][-1]
    return graph, call.args[0]


@settings(max_examples=60, deadline=None)
@given(chain=st.lists(steps, min_size=1, max_size=4), zero=st.sampled_from(["+1", "-1"]))
def test_bit_is_the_sign_at_every_integer(chain: list[tuple[Any, ...]], zero: str) -> None:
    graph, var = _last_pack(_chain(chain))
    found = find_threshold(graph, var, zero)
    if found is None:  # an infinity times zero somewhere
        return
    for n in range(-CHANNELS, CHANNELS + 1):
        value = np.broadcast_to(found.function(np.full((1, 1, 1, 1), n)), (1, 1, 1, 4))
        expected = value <= 0 if zero == "-1" else value < 0
        bits = (np.int32(n) ^ found.flip) < found.threshold
        np.testing.assert_array_equal(np.broadcast_to(bits, expected.shape), expected, str(n))


@pytest.mark.parametrize("scale", [0.0, np.nan])
def test_zero_and_nan_scales_give_constants(scale: float) -> None:
    chain = [("affine", [scale, 1.0, scale, -1.0], [-1.0, 0.5, 1.0, 0.5])]
    graph, var = _last_pack(_chain(chain))
    found = find_threshold(graph, var, "+1")
    assert found is not None
    n = np.arange(-CHANNELS, CHANNELS + 1).reshape(-1, 1)
    bits = (n ^ found.flip.reshape(1, -1)) < found.threshold.reshape(1, -1)
    assert bits[:, 0].all() if scale == 0 else not bits[:, 0].any()
    assert not bits[:, 2].any()
    assert 0 < bits[:, 1].sum() < len(n)
    assert 0 < bits[:, 3].sum() < len(n)


def test_replaces_the_float_chain() -> None:
    after = FuseThresholds(Report())(_chain([("affine", [1.0] * 4, [0.5] * 4)]))
    assert operators(after) == ["xnortvm.bitpack", "xnortvm.bconv2d", "xnortvm.threshold_pack"]


def test_does_not_replace_a_prelu_with_a_negative_slope() -> None:
    before = _chain([("prelu", [0.5, -0.5, 0.1, 0.2]), ("affine", [1.0] * 4, [0.5] * 4)])
    assert operators(FuseThresholds(Report())(before)) == operators(before)


def test_does_not_replace_the_sign_of_a_residual_sum() -> None:
    def body(emit: Any, x: Any, other: Any) -> Any:
        value = emit(relax.op.astype(accumulator(emit, x, WEIGHT), "float32"))
        return ops.bitpack(emit(relax.op.add(value, other)))

    before = module(body, (1, 2, 2, CHANNELS), (1, 2, 2, 4))
    assert operators(FuseThresholds(Report())(before)) == operators(before)


def test_does_not_replace_the_sign_of_a_pooled_accumulator() -> None:
    def body(emit: Any, x: Any) -> Any:
        value = emit(relax.op.astype(accumulator(emit, x, WEIGHT), "float32"))
        return ops.bitpack(emit(relax.op.nn.max_pool2d(value, layout="NHWC")))

    before = module(body, (1, 2, 2, CHANNELS))
    assert operators(FuseThresholds(Report())(before)) == operators(before)


def _spatial(gamma: np.ndarray[Any, Any], zero: str) -> Threshold:
    """The threshold of sign(prelu(acc·Γ)·A + t) for a scale (1, h, w, o)."""
    _, height, width, outputs = gamma.shape
    scale = RNG.normal(size=(1, 1, 1, outputs)).astype(np.float32)
    shift = RNG.normal(size=(1, 1, 1, outputs)).astype(np.float32)
    weight = signs(RNG, outputs, 1, 1, 96)

    def body(emit: Any, x: Any) -> Any:
        value = emit(relax.op.astype(accumulator(emit, x, weight), "float32"))
        value = emit(relax.op.multiply(value, relax.const(gamma)))
        value = emit(relax.op.nn.prelu(value, f32([0.25] * outputs), 3))
        return ops.bitpack(emit(ops.affine(value, relax.const(scale), relax.const(shift))))

    graph, var = _last_pack(module(body, (1, height, width, 96)))
    found = find_threshold(graph, var, zero)
    assert found is not None
    return found


@pytest.mark.parametrize("zero", ["+1", "-1"])
@pytest.mark.parametrize("case", [3, 4])
def test_factored_scales_flip_at_the_same_integers_everywhere(case: int, zero: str) -> None:
    alpha, beta, gamma = (
        RNG.normal(size=shape).astype(np.float32)
        for shape in ((1, 1, 1, 8), (1, 14, 1, 1), (1, 1, 9, 1))
    )
    if case == 3:
        beta, gamma = RNG.normal(size=(1, 14, 9, 1)).astype(np.float32), np.float32([[[[1]]]])
    alpha[..., 3] = 0
    beta[:, 2] = 0
    full = (alpha * beta * gamma).astype(np.float32)
    found = _spatial(full, zero)
    compared = factor_threshold(found, factors_of(full))
    assert compared is not None
    assert sum(f.size for f in compared.factors) <= 14 * 9 + 8
    for n in range(-96, 97):
        start = np.full(full.shape, n, np.float32)
        bits = reduce(np.multiply, compared.factors, start) < compared.limit
        expected = (np.int32(n) ^ found.flip) < found.threshold
        np.testing.assert_array_equal(bits, np.broadcast_to(expected, bits.shape))


def test_dense_scale_keeps_a_table_and_says_so() -> None:
    gamma = relax.const(RNG.normal(size=(1, 5, 6, 4)).astype(np.float32))

    def body(emit: Any, x: Any) -> Any:
        value = emit(relax.op.astype(accumulator(emit, x, WEIGHT, "conv"), "float32"))
        value = emit(relax.op.multiply(value, gamma))
        return ops.bitpack(emit(relax.op.add(value, f32([0.5, 1.0, -1.0, 2.0]))))

    report = Report(layers=[LayerRow("conv", "conv2d", True)])
    after = FuseThresholds(report)(module(body, (1, 5, 6, CHANNELS)))
    assert operators(after)[-1] == "xnortvm.threshold_pack"
    assert "5×6×4 thresholds" in report.layers[0].note


def test_integer_function_needs_one_accumulator() -> None:
    def body(emit: Any, x: Any) -> Any:
        parts = [
            emit(relax.op.astype(accumulator(emit, x, WEIGHT), "float32")),
            emit(relax.op.astype(accumulator(emit, x, -WEIGHT), "float32")),
        ]
        return relax.op.add(*parts)

    graph = Graph(module(body, (1, 2, 2, CHANNELS))["main"])
    assert IntegerFunction.of(graph, graph.bindings[-1][0]) is None

# SPDX-License-Identifier: Apache-2.0
"""Channels-last networks compute the same, with transposes at the ends alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.relax_modules import module, operators
from tests.relax_reference import evaluate
from xnortvm._tvm import relax
from xnortvm.graph.dataflow import shape_of
from xnortvm.transform.layout import channels_last

RNG = np.random.default_rng(0)
SHAPE = (2, 4, 6, 5)


def _weight(o: int, i: int, k: int = 3) -> Any:
    return relax.const(RNG.normal(size=(o, i, k, k)).astype(np.float32))


def _vector(*shape: int) -> Any:
    return relax.const(RNG.normal(size=shape).astype(np.float32))


def _concat(emit: Any, x: Any) -> Any:
    return relax.op.concat([x, emit(relax.op.tanh(x))], 1)


def _shuffle(emit: Any, x: Any) -> Any:
    n, c, h, w = shape_of(x)
    split = emit(relax.op.reshape(x, (n, 2, c // 2, h, w)))
    turned = emit(relax.op.permute_dims(split, [0, 2, 1, 3, 4]))
    return relax.op.reshape(turned, (n, c, h, w))


def _gate(emit: Any, x: Any) -> Any:
    return relax.op.multiply(x, emit(relax.op.mean(x, [2, 3], keepdims=True)))


#: Operators on (N, C, H, W) that keep at least one pixel and an even number of channels.
STEPS: dict[str, Any] = {
    "conv": lambda emit, x: relax.op.nn.conv2d(x, _weight(6, shape_of(x)[1]), padding=1),
    "max pool": lambda emit, x: relax.op.nn.max_pool2d(x, (2, 2), (1, 1), padding=1),
    "avg pool": lambda emit, x: relax.op.nn.avg_pool2d(x, (2, 2), (1, 1), padding=1),
    "relu": lambda emit, x: relax.op.nn.relu(x),
    "bias": lambda emit, x: relax.op.add(x, _vector(1, shape_of(x)[1], 1, 1)),
    "scale by row": lambda emit, x: relax.op.multiply(x, _vector(shape_of(x)[2], 1)),
    "number": lambda emit, x: relax.op.multiply(x, relax.const(np.float32(0.5))),
    "prelu": lambda emit, x: relax.op.nn.prelu(x, _vector(shape_of(x)[1]), 1),
    "clip": lambda emit, x: relax.op.clip(x, -1, 1),
    "residual": lambda emit, x: relax.op.add(x, emit(relax.op.tanh(x))),
    "concat": _concat,
    "shuffle": _shuffle,
    "gate": _gate,
    "pad": lambda emit, x: relax.op.nn.pad(x, [0, 0, 1, 1, 0, 1, 2, 0], pad_value=1.0),
    "slice": lambda emit, x: relax.op.strided_slice(x, [2], [0], [shape_of(x)[2]], [2]),
    "mean of channels": lambda emit, x: relax.op.multiply(
        x, emit(relax.op.mean(x, [1], keepdims=True))
    ),
}
ENDS: dict[str, Any] = {
    "map": lambda emit, x: x,
    "pooled": lambda emit, x: relax.op.mean(x, [2, 3]),
    "sum of channels": lambda emit, x: relax.op.sum(x, [1]),
    "flatten": lambda emit, x: relax.op.reshape(x, (2, -1)),
    "linear": lambda emit, x: relax.op.matmul(
        emit(relax.op.reshape(x, (2, -1))), _vector(int(np.prod(shape_of(x)[1:])), 3)
    ),
    "scaled linear": lambda emit, x: relax.op.matmul(
        emit(
            relax.op.multiply(
                emit(relax.op.reshape(x, (2, -1))), _vector(int(np.prod(shape_of(x)[1:])))
            )
        ),
        _vector(int(np.prod(shape_of(x)[1:])), 3),
    ),
}


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5),
    end=st.sampled_from(sorted(ENDS)),
)
def test_random_networks_compute_the_same(steps: list[str], end: str) -> None:
    def body(emit: Any, x: Any) -> Any:
        for name in steps:
            x = emit(STEPS[name](emit, x))
        return emit(ENDS[end](emit, x)) if end != "map" else x

    before = module(body, SHAPE)
    x = RNG.normal(size=SHAPE).astype(np.float32)
    expected = evaluate(before, x)[0]
    result = evaluate(channels_last(before), x)[0]
    bound = 1e-5 * max(float(np.abs(expected).max()), 1e-3)
    np.testing.assert_allclose(result, expected, rtol=0, atol=bound)


def test_transposes_remain_at_the_ends_only() -> None:
    def body(emit: Any, x: Any) -> Any:
        for name in ("pad", "bias", "conv", "prelu", "max pool", "concat", "conv", "residual"):
            x = emit(STEPS[name](emit, x))
        return x

    names = operators(channels_last(module(body, SHAPE)))
    assert names[0] == names[-1] == "permute_dims"
    assert "permute_dims" not in names[1:-1]


def test_flatten_reorders_the_weights_not_the_data() -> None:
    def body(emit: Any, x: Any) -> Any:
        x = emit(STEPS["conv"](emit, x))
        return ENDS["linear"](emit, x)

    names = operators(channels_last(module(body, SHAPE)))
    assert names == ["permute_dims", "nn.conv2d", "reshape", "matmul"]


def test_one_dimensional_convolutions_become_flat_maps() -> None:
    def body(emit: Any, x: Any) -> Any:
        x = emit(relax.op.nn.conv1d(x, _vector(6, 4, 3), padding=(2, 1), strides=2))
        return relax.op.nn.conv1d(x, _vector(3, 6, 3), dilation=2, padding=2)

    before = module(body, (2, 4, 9))
    after = channels_last(before)
    x = RNG.normal(size=(2, 4, 9)).astype(np.float32)
    np.testing.assert_allclose(evaluate(after, x)[0], evaluate(before, x)[0], atol=1e-4)
    assert operators(after).count("nn.conv2d") == 2


def test_does_not_transpose_what_reaches_no_layer() -> None:
    def body(emit: Any, x: Any) -> Any:
        return relax.op.add(emit(relax.op.tanh(x)), x)

    assert operators(channels_last(module(body, SHAPE))) == ["tanh", "add"]


def test_does_not_touch_layers_in_another_layout() -> None:
    def body(emit: Any, x: Any) -> Any:
        return relax.op.nn.max_pool2d(x, (2, 2), layout="NHWC")

    assert operators(channels_last(module(body, SHAPE))) == ["nn.max_pool2d"]

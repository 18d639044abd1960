# SPDX-License-Identifier: Apache-2.0
"""Thresholds that move into weights and base give the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.relax_modules import module, operators
from tests.relax_reference import evaluate
from xnortvm import ops
from xnortvm._tvm import IRModule, relax
from xnortvm.transform.thresholds_in_base import thresholds_in_base

#: What is left when the threshold has moved.
MOVED = ["xnortvm.bconv2d", "xnortvm.bitpack"]
IMAGES, HEIGHT, WIDTH = 2, 5, 6
FORMS: dict[str, dict[str, Any]] = {
    "zero padding": {"padding": (1, 1, 1, 1)},
    "padding by 1, stride 2": {"padding": (1, 0, 1, 1), "strides": (2, 2), "pad_value": 1},
    "padding by -1, dilation": {"padding": (1, 1, 1, 1), "dilation": (1, 2), "pad_value": -1},
    "groups": {"groups": 2},
}


def _module(
    *,
    channels: int = 40,
    outputs: int = 6,
    masked: bool = False,
    twice: bool = False,
    threshold: Any = None,
    dense: bool = False,
    **form: Any,
) -> IRModule:
    rng = np.random.default_rng(channels)
    groups, pad = form.get("groups", 1), form.pop("pad_value", 0)
    geometry = {"padding": (0,) * 4, "strides": (1, 1), "dilation": (1, 1), **form}
    signs = rng.choice(
        np.array([-1, 0, 1] if masked else [-1, 1], np.int8), (outputs, 3, 3, channels // groups)
    )
    border = {key: geometry[key] for key in ("padding", "strides", "dilation")}
    base = ops.border_base(signs, (HEIGHT, WIDTH), **border, pad_value=pad)
    limit = rng.integers(-40, 40, (1, 1, 1, outputs)) if threshold is None else threshold
    flip = rng.choice([0, -1], (1, 1, 1, outputs))
    arrays = [np.asarray(each, np.int32) for each in (limit, flip)]

    def body(emit: Any, x: Any) -> Any:
        constants = [relax.const(each[0, 0] if dense else each) for each in arrays]
        if dense:
            weights = relax.const(ops.pack(signs[:, 0, 0] < 0))
            return ops.threshold_pack(emit(ops.bdense(x, weights, channels=channels)), *constants)
        weights = relax.const(ops.pack_weights(signs))
        call = ops.bconv2d(
            x, weights, relax.const(base), channels=channels, pad_value=pad, **geometry
        )
        acc = emit(call)
        bits = emit(ops.threshold_pack(acc, *constants, groups=groups))
        return relax.Tuple([bits, emit(relax.op.negative(acc))]) if twice else bits

    words = ops.words(channels // groups) * groups
    shape = (IMAGES, words) if dense else (IMAGES, HEIGHT, WIDTH, words)
    return module(body, shape, dtype="uint32")


def _bits(channels: int, groups: int) -> np.ndarray:
    values = np.random.default_rng(1).random((IMAGES, HEIGHT, WIDTH, channels)) < 0.5
    return ops.pack(values, groups)


@pytest.mark.parametrize("channels", [40, 64])
@pytest.mark.parametrize("name", FORMS)
def test_bits_are_the_same(name: str, channels: int) -> None:
    mod = _module(channels=channels, **FORMS[name])
    moved = thresholds_in_base(mod)
    assert operators(moved) == MOVED
    bits = _bits(channels, FORMS[name].get("groups", 1))
    expected = evaluate(mod, bits)[0]
    assert expected.any()
    np.testing.assert_array_equal(evaluate(moved, bits)[0], expected)


@pytest.mark.parametrize("limit", [-9999, 0, 9999])
def test_one_threshold_for_all_channels_moves_too(limit: int) -> None:
    mod = _module(threshold=[[[[limit]]]])
    moved = thresholds_in_base(mod)
    assert operators(moved) == MOVED
    bits = _bits(40, 1)
    np.testing.assert_array_equal(evaluate(moved, bits)[0], evaluate(mod, bits)[0])


KEPT: dict[str, dict[str, Any]] = {
    "another reader": {"twice": True},
    "masked weights": {"masked": True},
    "a threshold for each column": {"threshold": np.zeros((1, 1, 4, 6))},
    "a threshold for each row": {"threshold": np.zeros((1, 3, 1, 1))},
    "a dense layer": {"dense": True},
}


@pytest.mark.parametrize("why", KEPT)
def test_does_not_move_thresholds_past(why: str) -> None:
    mod = _module(**KEPT[why])
    assert operators(thresholds_in_base(mod)) == operators(mod)

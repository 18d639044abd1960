# SPDX-License-Identifier: Apache-2.0
"""Limits become `clamp` where what is limited is a finite function of an accumulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.relax_modules import accumulator, f32, module, operators, signs
from xnortvm._tvm import relax
from xnortvm.transform.clamp import clamp_integers

WEIGHT = signs(np.random.default_rng(0), 4, 1, 1, 24)
CLAMP = "xnortvm.clamp"
LIMITS: dict[str, Any] = {
    "relu": relax.op.nn.relu,
    "relu6": relax.op.nn.relu6,
    "hard tanh": lambda x: relax.op.clip(x, -1, 1),
}


def _operators(limit: Any, scale: float = 0.5, residual: bool = False) -> list[str]:
    def body(emit: Any, x: Any, *other: Any) -> Any:
        value = emit(relax.op.astype(accumulator(emit, x, WEIGHT), "float32"))
        value = emit(relax.op.multiply(value, f32([1.0, -1.0, scale, 2.0], shape=(1, 1, 1, 4))))
        if residual:
            value = emit(relax.op.add(value, *other))
        return emit(limit(value))

    shapes = ((1, 2, 2, 24), (1, 2, 2, 4))[: 1 + residual]
    return operators(clamp_integers(module(body, *shapes)))


@pytest.mark.parametrize("name", LIMITS)
def test_limits_behind_an_accumulator_become_clamps(name: str) -> None:
    assert CLAMP in _operators(LIMITS[name])


@pytest.mark.parametrize("limits", [(0.5, 1), (-1, -0.5)])
def test_does_not_clamp_between_limits_on_one_side_of_zero(limits: tuple[float, float]) -> None:
    assert CLAMP not in _operators(lambda x: relax.op.clip(x, *limits))


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_does_not_clamp_what_can_be_nan(scale: float) -> None:
    assert CLAMP not in _operators(relax.op.nn.relu, scale)


def test_does_not_clamp_a_residual_sum() -> None:
    assert CLAMP not in _operators(relax.op.nn.relu, residual=True)

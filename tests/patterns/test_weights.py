# SPDX-License-Identifier: Apache-2.0
"""Binary weights are recognised by value, and nothing else is taken for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.relax_modules import signs
from xnortvm.patterns import BinaryWeights, Reject, binary_weights
from xnortvm.patterns.weights import TOLERANCE

RNG = np.random.default_rng(0)
SIGNS = signs(RNG, 6, 3, 3, 5)


@settings(max_examples=50, deadline=None)
@given(scales=st.lists(st.floats(-100, 100, width=32), min_size=6, max_size=6))
def test_scaled_signs_come_back(scales: list[float]) -> None:
    scale = np.asarray(scales, np.float32).reshape(6, 1, 1, 1)
    weights = scale * SIGNS
    found = binary_weights(weights)
    assert isinstance(found, BinaryWeights)
    np.testing.assert_array_equal(found.signs * found.scale.reshape(6, 1, 1, 1), weights)


def test_residue_of_straight_through_estimators_is_dropped() -> None:
    latent = RNG.uniform(-1, 1, SIGNS.shape).astype(np.float32)
    found = binary_weights((SIGNS - latent) + latent)
    assert isinstance(found, BinaryWeights)
    np.testing.assert_array_equal(found.signs, SIGNS)
    np.testing.assert_array_equal(found.scale, 1)


def test_a_scale_close_to_one_is_kept() -> None:
    found = binary_weights(SIGNS * np.float32(1.00003))
    assert isinstance(found, BinaryWeights)
    np.testing.assert_array_equal(found.scale, np.float32(1.00003))


def test_zeros_are_masked() -> None:
    signs = RNG.choice(np.asarray([-1, 0, 1], np.int8), SIGNS.shape)
    signs[1] = np.abs(signs[1])  # 0 and +s
    signs[2] = 0
    found = binary_weights(np.float32(0.3) * signs)
    assert isinstance(found, BinaryWeights)
    np.testing.assert_array_equal(found.signs[[0, 1, 3, 4, 5]], signs[[0, 1, 3, 4, 5]])
    np.testing.assert_array_equal(found.scale, np.float32([0.3, 0.3, 0, 0.3, 0.3, 0.3]))
    assert (found.signs[2] == 1).all()
    assert not found.offset.any()
    assert "are 0: masked" in found.note


def test_residue_of_a_zero_is_a_zero() -> None:
    found = binary_weights(_changed(_set(3e-8)))
    assert isinstance(found, BinaryWeights)
    assert found.signs[2, 0, 1, 3] == 0


@settings(max_examples=50, deadline=None)
@given(
    scale=st.floats(0.015625, 100, width=32),
    offset=st.floats(-100, 100, width=32),
)
def test_two_levels_come_back(scale: float, offset: float) -> None:
    assume(offset == 0 or 2 * abs(offset) > TOLERANCE * (scale + abs(offset)))  # else residue
    weights = (np.float32(scale) * SIGNS + np.float32(offset)).astype(np.float32)
    found = binary_weights(weights)
    assert isinstance(found, BinaryWeights)
    column = (6, 1, 1, 1)
    again = found.signs * found.scale.reshape(column) + found.offset.reshape(column)
    np.testing.assert_allclose(again, weights, rtol=0, atol=2e-7 * np.abs(weights).max())


def _changed(change: Callable[[Any], None]) -> np.ndarray[Any, Any]:
    weights = 0.5 * SIGNS
    change(weights)
    return weights


def _set(value: float) -> Callable[[Any], None]:
    def change(weights: Any) -> None:
        weights[2, 0, 1, 3] = value

    return change


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (_changed(_set(0.6)), "its weights are real: 3 distinct values in output channel 2"),
        (_changed(_set(np.nan)), "its weights hold infinities or NaN"),
        (_changed(_set(np.inf)), "its weights hold infinities or NaN"),
        (SIGNS + 1e4 * (1 + 1e-7 * RNG.random(SIGNS.shape)), "its weights are real"),
        (_changed(_set(0.1)) + 0.1, "its weights are real: 3 distinct values in output channel 2"),
        (np.abs(SIGNS) * RNG.random(SIGNS.shape), "its weights are real: 45 distinct values"),
    ],
    ids=["one wrong element", "nan", "infinity", "close levels", "three levels", "real"],
)
def test_does_not_take_other_weights_for_binary(weights: Any, reason: str) -> None:
    found = binary_weights(np.asarray(weights, np.float32))
    assert isinstance(found, Reject)
    assert reason in found.reason
    assert found.hint

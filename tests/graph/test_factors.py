# SPDX-License-Identifier: Apache-2.0
"""Outer products are found among constants, and only those."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xnortvm.graph.factors import factors_of

sizes = st.integers(1, 5)


@settings(max_examples=50, deadline=None)
@given(shape=st.tuples(sizes, sizes, sizes), seed=st.integers(0, 99), zeros=st.booleans())
def test_factors_multiply_to_the_constant(shape: tuple[int, ...], seed: int, zeros: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors = [rng.normal(size=n).astype(np.float32) for n in shape]
    if zeros:
        vectors[0][0] = 0
    value = np.einsum("i,j,k->ijk", *vectors).astype(np.float32)[None]
    factors = factors_of(value)
    np.testing.assert_allclose(reduce(np.multiply, factors), value, rtol=2e-6, atol=0)
    assert sum(f.size for f in factors) <= max(sum(shape), value.size)
    if value.any() and min(shape) > 1:
        assert sum(f.size for f in factors) == sum(shape)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4),
        np.zeros((1, 2, 3, 4), np.float32),
        np.full((1, 2, 3, 4), np.nan, np.float32),
        np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4),
    ],
    ids=["no product", "zeros", "nan", "one axis"],
)
def test_does_not_split_what_is_no_outer_product(value: Any) -> None:
    assert factors_of(value) == [value] or factors_of(value)[0] is value


def test_splits_off_the_channels_of_case_3() -> None:
    rng = np.random.default_rng(0)
    value = rng.normal(size=(1, 5, 6, 1)) * rng.normal(size=(1, 1, 1, 8))
    shapes = {factor.shape for factor in factors_of(value.astype(np.float32))}
    assert shapes == {(1, 5, 6, 1), (1, 1, 1, 8)}

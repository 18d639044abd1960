# SPDX-License-Identifier: Apache-2.0
"""`outer_factors`: an array that is an outer product, as its factors."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_TOLERANCE = {"float16": 4e-3, "float32": 1e-6, "float64": 4e-15}
"""Relative difference that rounding leaves between a product and its factors multiplied again."""


def outer_factors(value: Array) -> list[Array]:
    """Split an array into factors that vary along different axes.

    XNOR-Net++ (Section 3, cases 3 and 4) learns Γ as α ⊗ β or α ⊗ β ⊗ γ. Where a model multiplies
    the factors before it applies them, only their product arrives here.

    Parameters
    ----------
    value : ndarray of float

    Returns
    -------
    list of ndarray
        Their product is `value` to within a few units in the last place of each element, zeros
        exactly; extents are 1 where a factor does not vary. ``[value]`` when there is nothing to
        gain.

    Examples
    --------
    >>> alpha = np.array([1.0, -2.0, 3.0], "float32").reshape(3, 1, 1)
    >>> beta = np.array([0.5, 4.0], "float32").reshape(1, 2, 1)
    >>> [factor.shape for factor in outer_factors(alpha * beta)]
    [(3, 1, 1), (1, 2, 1)]
    """
    tolerance = _TOLERANCE.get(str(value.dtype))
    if tolerance is None or not np.isfinite(value).all() or not value.any():
        return [value]
    factors = []
    rest = value.astype("float64")
    for axis in range(value.ndim):
        others = [extent for place, extent in enumerate(rest.shape) if place != axis]
        if rest.shape[axis] > 1 and max(others, default=1) > 1:
            split = _split(rest, axis, tolerance)
            if split is not None:
                factors.append(split[0])
                rest = split[1]
    rounded = [factor.astype(value.dtype) for factor in (*factors, rest)]
    product = rounded[0]
    for factor in rounded[1:]:
        product = product * factor
    smaller = sum(factor.size for factor in rounded) < value.size
    return rounded if smaller and _close(product, value, tolerance) else [value]


def _split(value: Array, axis: int, tolerance: float) -> tuple[Array, Array] | None:
    """Split ``value = along ⊗ across``, the former along one axis; None when it is no product."""
    moved = np.moveaxis(value, axis, 0)
    matrix = moved.reshape(moved.shape[0], -1)
    along = matrix[:, np.abs(matrix).max(axis=0).argmax()]
    across = along @ matrix / (along @ along)
    along = matrix @ across / (across @ across)
    if not _close(np.outer(along, across), matrix, tolerance):
        return None
    shape = [1] * value.ndim
    shape[axis] = value.shape[axis]
    rest = np.moveaxis(across.reshape(1, *moved.shape[1:]), 0, axis)
    return along.reshape(shape), rest


def _close(product: Array, value: Array, tolerance: float) -> bool:
    return bool((np.abs(product - value) <= tolerance * np.abs(value)).all())

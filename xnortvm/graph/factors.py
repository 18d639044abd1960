# SPDX-License-Identifier: Apache-2.0
"""Outer products among constants: Γ = α ⊗ β ⊗ γ costs o + h + w numbers, not o·h·w."""

from __future__ import annotations

import numpy as np

from xnortvm.graph.pointwise import Array

#: Relative error of a product of three float32 numbers and of the factors found for it.
TOLERANCE = 1e-6


def factors_of(value: Array) -> list[Array]:
    """Split a constant into factors that broadcast to it, as small as they can be.

    Parameters
    ----------
    value : ndarray of float
        Any rank.

    Returns
    -------
    list of ndarray
        Of the same rank and dtype; their product is `value` to a relative error of 1e-6 in every
        element. A constant that is no outer product comes back alone. The last factor has the
        last axis and carries the magnitude.

    Examples
    --------
    >>> import numpy as np
    >>> gamma = np.float32([[1], [2]]) * np.float32([[3, 4, 5]])
    >>> [factor.shape for factor in factors_of(gamma)]
    [(2, 1), (1, 3)]
    """
    rest = value.astype(np.float64)
    found: list[Array] = []
    if not np.isfinite(rest).all() or not rest.any():
        return [value]
    for axis in range(value.ndim):
        if rest.shape[axis] == 1 or rest.size == rest.shape[axis]:
            continue
        pivot = np.unravel_index(int(np.argmax(np.abs(rest))), rest.shape)
        along = [slice(p, p + 1) for p in pivot]
        along[axis] = slice(None)
        factor = rest[tuple(along)] / rest[pivot]
        others = np.take(rest, [pivot[axis]], axis)
        if np.all(np.abs(factor * others - rest) <= TOLERANCE * np.abs(rest)):
            found.append(factor.astype(value.dtype))
            rest = others
    if not found:
        return [value]
    return [*found, rest.astype(value.dtype)]

# SPDX-License-Identifier: Apache-2.0
"""When two results count as the same, and what to say where they do not.

Floats may differ by `BOUND` of the largest value (docs/semantics.md). Where that is exceeded, the
rounding that the network itself amplifies is measured, by Monte Carlo arithmetic: every float value
is moved by a random amount of one unit in the last place, and what comes out moves by the noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: Relative to the largest value of a tensor: by how much floats may differ, per dtype.
BOUND = {"float64": 1e-5, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}

#: What takes the place of 0 where a sign has to be the compiled code's.
TINY = 1e-30

#: How many times the measured noise a difference may be: two runs round independently.
NOISE = 8.0


def largest(values: Array) -> float:
    """Return the largest finite magnitude, 0 without one."""
    if values.dtype.kind != "f" or not values.size:
        return float(np.abs(values.astype(np.float64)).max()) if values.size else 0.0
    magnitude = np.abs(values)
    finite = magnitude[np.isfinite(magnitude)]
    return float(finite.max()) if finite.size else 0.0


def bound_of(values: Array) -> float:
    """Return by how much results that agree with `values` may differ from them."""
    return BOUND.get(str(values.dtype), 1e-5) * largest(values) + 2 * TINY


def difference(actual: Array, expected: Array) -> Array:
    """Return |actual - expected|, 0 where both are the same infinity or both NaN."""
    if expected.dtype.kind not in "fV":
        return (actual != expected).astype(np.float64)
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))


def misrounded(actual: Array, exact: Array, slack: Any) -> Array:
    """Tell which values are no rounding of a number within `slack` of the exact one.

    Rounding never falls as a number grows: what is right lies between the two ends, rounded.
    """
    with np.errstate(all="ignore"):
        low, high = (np.add(exact, by, dtype=np.float64) for by in (-slack, slack))
        low, high = low.astype(actual.dtype), high.astype(actual.dtype)
        same = np.isnan(actual) & np.isnan(exact)
        wrong: Array = ~((low <= actual) & (actual <= high) | same)
    return wrong


def shaken(values: Any, rng: np.random.Generator, terms: int = 1) -> Any:
    """Move every float by up to one unit in its last place; a sum of many terms by their root."""
    if isinstance(values, tuple):
        return tuple(shaken(value, rng, terms) for value in values)
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        return values
    unit = np.finfo(values.dtype).eps * values.dtype.type(np.sqrt(terms))
    step = unit * rng.choice(np.asarray([-1, 1], values.dtype), values.shape)
    moved: Array = (values * (1 + step)).astype(values.dtype)
    return moved


def first(where: Array) -> tuple[int, ...]:
    """Return the index of the first True."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(where)), where.shape))


def described(actual: Array, expected: Array, wrong: Array, what: str) -> str:
    """Say how many values differ, where the first one lies and what it is."""
    place = first(wrong)
    at = f" at {place}" if place else ""
    return (
        f"{int(wrong.sum())} of {wrong.size} {what} differ, the first{at}: "
        f"{_number(actual[place])} instead of {_number(expected[place])}"
    )


def _number(value: Any) -> str:
    return f"{value:.7g}" if isinstance(value, np.floating) else str(value)

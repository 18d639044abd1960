# SPDX-License-Identifier: Apache-2.0
"""Inputs that a C program and NumPy make alike, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xnortvm.runtime.interface import TensorSpec

Array = np.ndarray[Any, Any]

#: The state of the generator is multiplied and advanced by these, modulo 2³².
MULTIPLIER, STEP = 1664525, 1013904223


def sample_inputs(specs: Sequence[TensorSpec]) -> list[Array]:
    """Return inputs: floats of [−1, 1) in steps of 2⁻²³, integers of 0 to 3, both bools."""
    state, made = 1, []
    for spec in specs:
        shape = tuple(int(dim) for dim in spec.shape)
        count = int(np.prod(shape, dtype=np.int64))
        states = _states(state, count)
        state = int(states[-1]) if count else state
        bits = states >> np.uint32(8)
        if spec.dtype.startswith("float"):
            dtype = np.dtype(spec.dtype)
            values = bits.astype(dtype) / dtype.type(8388608) - dtype.type(1)
        else:
            values = (bits >> np.uint32(23 if spec.dtype == "bool" else 22)).astype(spec.dtype)
        made.append(values.reshape(shape))
    return made


def _states(state: int, count: int) -> Array:
    """Return the next states of the generator, by its closed form."""
    powers = np.cumprod(np.full(count, MULTIPLIER, np.uint32), dtype=np.uint32)
    sums = np.cumsum(np.concatenate([[np.uint32(1)], powers[:-1]]), dtype=np.uint32)[:count]
    return powers * np.uint32(state) + np.uint32(STEP) * sums

# SPDX-License-Identifier: Apache-2.0
"""Binary weights, recognised by value: every output channel holds +s and -s for one s ≥ 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xnortvm.patterns.reject import Reject

#: Relative spread of |w| within a channel that still counts as one magnitude: arithmetic of
#: straight-through estimators leaves a few units in the last place, or 1e-5 where a large latent
#: weight was added and taken away again.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class BinaryWeights:
    """Weights as signs and one magnitude per output channel.

    Attributes
    ----------
    signs : ndarray of int8
        +1 or -1, in the shape of the weights. +1 throughout an all-zero channel.
    scale : ndarray (O,) float32
        Magnitude s of each output channel, 0 for an all-zero channel.
    """

    signs: np.ndarray[Any, Any]
    scale: np.ndarray[Any, Any]


def binary_weights(weights: np.ndarray[Any, Any]) -> BinaryWeights | Reject:
    """Split weights (O, ...) into signs and magnitudes, or say why they are not binary.

    Parameters
    ----------
    weights : ndarray (O, ...) float
        Output channels first.
    """
    channels = weights.reshape(weights.shape[0], -1)
    magnitude = np.abs(channels)
    largest, smallest = magnitude.max(axis=1), magnitude.min(axis=1)
    mean = magnitude.mean(axis=1, dtype=np.float64)
    spread = largest - smallest > TOLERANCE * largest
    if not np.isfinite(largest).all():
        return Reject("its weights hold infinities or NaN", "check the checkpoint")
    if spread.any():
        channel = int(np.argmax(spread))
        return _not_two_valued(channels[channel], channel)
    signs = np.where(weights < 0, -1, 1).astype(np.int8)
    exact = largest == smallest
    scale = np.where(exact, largest, mean).astype(np.float32)
    near_one = np.abs(scale - 1) <= TOLERANCE / 10
    return BinaryWeights(signs, np.where(near_one & ~exact, np.float32(1), scale))


def _not_two_valued(row: np.ndarray[Any, Any], channel: int) -> Reject:
    values = np.unique(row)
    zeros = int((row == 0).sum())
    nonzero = np.abs(row[row != 0])
    if zeros and np.ptp(nonzero) <= TOLERANCE * nonzero.max():
        return Reject(
            f"its weights are ternary: {zeros} of {row.size} in output channel {channel} are 0",
            "use a sign that gives +1 or -1 at 0",
        )
    if values.size == 2:
        return Reject(
            f"its weights take two values that are not ±s: {values[0]:.4g} and {values[1]:.4g} "
            f"in output channel {channel}",
            "leave out the offset of the weights",
        )
    return Reject(
        f"its weights are real: {values.size} distinct values in output channel {channel}",
        "apply sign to the weights if this layer should be binary",
    )

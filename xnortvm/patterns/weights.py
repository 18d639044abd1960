# SPDX-License-Identifier: Apache-2.0
"""Binary weights, recognised by value: every output channel holds two values, and perhaps zeros.

====================  ==========================  ====================================
values of a channel   taken as                    how the layer is computed
====================  ==========================  ====================================
-s, +s                s · sign                    XNOR and popcount
-s, 0, +s; 0, s       s · sign, 0 where masked    the same with a mask of bits
two others            s · sign + t (AdaBin)       t times the sum of the window is added
====================  ==========================  ====================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xnortvm.patterns.reject import Reject

Array = np.ndarray[Any, Any]

#: Relative spread of |w| within a channel that still counts as one magnitude: arithmetic of
#: straight-through estimators leaves a few units in the last place, or 1e-5 where a large latent
#: weight was added and taken away again.
TOLERANCE = 1e-4

#: What is smaller than this share of the largest weight is residue of a zero.
ZERO = 1e-6


@dataclass(frozen=True)
class BinaryWeights:
    """Weights ``scale · signs + offset``.

    Attributes
    ----------
    signs : ndarray of int8
        +1, -1, or 0 where a weight is 0, in the shape of the weights. +1 throughout a channel that
        is all 0.
    scale : ndarray (O,) float32
        Magnitude s of each output channel, 0 for an all-zero channel.
    offset : ndarray (O,) float32
        Middle t of the two values of each channel, 0 for most.
    """

    signs: Array
    scale: Array
    offset: Array

    @property
    def note(self) -> str:
        """What a reader of the report should know: how they differ from ±s."""
        zeros, shifted = int((self.signs == 0).sum()), int((self.offset != 0).sum())
        parts = []
        if zeros:
            parts.append(f"{zeros} of {self.signs.size} weights are 0: masked")
        if shifted:
            parts.append(
                f"the weights of {shifted} of {self.offset.size} output channels are ±s + t: t "
                "times the sum of the window is added"
            )
        return "; ".join(parts)


def binary_weights(weights: Array) -> BinaryWeights | Reject:
    """Split weights (O, ...) into signs, magnitudes and offsets, or say why they are not binary.

    Parameters
    ----------
    weights : ndarray (O, ...) float
        Output channels first.
    """
    channels = weights.reshape(weights.shape[0], -1)
    magnitude = np.abs(channels)
    largest = magnitude.max(axis=1)
    if not np.isfinite(largest).all():
        return Reject("its weights hold infinities or NaN", "check the checkpoint")
    dead = largest == 0
    zero = (magnitude <= ZERO * largest[:, None]) & ~dead[:, None]
    smallest = np.where(zero, np.inf, magnitude).min(axis=1)
    signs = np.where(zero, np.int8(0), np.where(channels < 0, np.int8(-1), np.int8(1)))
    count = np.maximum((~zero).sum(axis=1), 1)
    mean = np.where(zero, 0, magnitude).sum(axis=1, dtype=np.float64) / count
    exact = largest == smallest
    scale = np.where(exact, largest, mean).astype(np.float32)
    near_one = np.abs(scale - 1) <= TOLERANCE / 10
    scale = np.where(near_one & ~exact, np.float32(1), scale)
    offset = np.zeros_like(scale)
    for channel in np.flatnonzero(largest - smallest > TOLERANCE * largest):
        levels = _two_levels(channels[channel])
        if levels is None:
            return _not_two_valued(channels[channel], int(channel))
        low, high = levels
        signs[channel] = np.where(channels[channel] > (low + high) / 2, 1, -1)
        scale[channel], offset[channel] = (high - low) / 2, (high + low) / 2
    return BinaryWeights(signs.reshape(weights.shape), scale, offset)


def _two_levels(row: Array) -> tuple[float, float] | None:
    """Return the two values of a row, None when it has more."""
    upper = row > (row.max() + row.min()) / 2
    half = (float(row.max()) - float(row.min())) / 2
    if max(np.ptp(row[upper]), np.ptp(row[~upper])) > TOLERANCE * half:
        return None
    high, low = (float(row[part].mean(dtype=np.float64)) for part in (upper, ~upper))
    return low, high


def _not_two_valued(row: Array, channel: int) -> Reject:
    return Reject(
        f"its weights are real: {np.unique(row).size} distinct values in output channel {channel}",
        "apply sign to the weights if this layer should be binary",
    )

# SPDX-License-Identifier: Apache-2.0
"""Output channels in vector lanes, shared by every convolution and dense kernel.

Weights lie as [vectors][...][lanes]: one vector load gives the weights of neighbouring output
channels, and the accumulator has vectors · lanes channels, of which the first O are real.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnortvm._tvm import tirx
from xnortvm.ops.layout import WORD, block_channels


def padded_vectors(outputs: int, lanes: int) -> int:
    """Return how many vectors of output channels a kernel computes.

    At least ceil(outputs / lanes); more when a few channels of nothing let vectors be computed
    several at a time. Whole words of 32 channels are best.

    Examples
    --------
    >>> [padded_vectors(outputs, 8) for outputs in (8, 64, 65, 1000)]
    [1, 8, 9, 128]
    """
    together = max(WORD // lanes, 1)
    fewest = -(-outputs // lanes)

    def cost(vectors: int) -> float:
        at_once = max(size for size in range(1, together + 1) if vectors % size == 0)
        return vectors * (1 + 0.5 / at_once)

    return min(range(fewest, fewest + together), key=cost)


def blocked_weight(weight: NDArray[Any], lanes: int) -> NDArray[Any]:
    """Return the weights (O, ...) as (`padded_vectors`, ..., lanes)."""
    missing = padded_vectors(weight.shape[0], lanes) * lanes - weight.shape[0]
    padding = [(0, missing)] + [(0, 0)] * (weight.ndim - 1)
    return block_channels(np.pad(weight, padding), lanes)


def lane_of(channel: Any, lanes: int) -> tuple[Any, Any]:
    """Return the block and the lane of an output channel."""
    return tirx.floordiv(channel, lanes), tirx.floormod(channel, lanes)


def group_of(channel: Any, outputs: int, groups: int, padded: int) -> Any:
    """Return the group of an output channel; padded channels belong to the last group."""
    if groups == 1:
        return tirx.const(0, "int32")
    per_group = outputs // groups
    group = tirx.floordiv(channel, per_group) if per_group > 1 else channel
    return tirx.min(group, groups - 1) if padded > outputs else group

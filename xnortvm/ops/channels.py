# SPDX-License-Identifier: Apache-2.0
"""Output channels in vector lanes, shared by every convolution and dense kernel.

Weights lie as [ceil(O / lanes)][...][lanes]: one vector load gives the weights of neighbouring
output channels, and the accumulator has ceil(O / lanes) · lanes channels, of which the first O
are real.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from xnortvm._tvm import tirx
from xnortvm.ops.layout import block_channels


def blocked_weight(weight: NDArray[Any], lanes: int) -> NDArray[Any]:
    """Return the weights (O, ...) as (ceil(O / lanes), ..., lanes)."""
    return block_channels(weight, lanes)


def lane_of(channel: Any, lanes: int) -> tuple[Any, Any]:
    """Return the block and the lane of an output channel."""
    return tirx.floordiv(channel, lanes), tirx.floormod(channel, lanes)


def group_of(channel: Any, outputs: int, groups: int, lanes: int) -> Any:
    """Return the group of an output channel; padded channels belong to the last group."""
    if groups == 1:
        return tirx.const(0, "int32")
    per_group = outputs // groups
    group = tirx.floordiv(channel, per_group) if per_group > 1 else channel
    return tirx.min(group, groups - 1) if outputs % lanes else group

# SPDX-License-Identifier: Apache-2.0
"""In which order a value's dimensions lie in memory, when it is not the user's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Flat:
    """A flattened (N, C·S) value whose second dimension runs over S first, then over C."""

    channels: int
    spatial: int

    def order(self) -> np.ndarray[Any, Any]:
        """Position in the user's order of each element of ours."""
        user = np.arange(self.channels * self.spatial).reshape(self.channels, self.spatial)
        return user.T.reshape(-1)


@dataclass(frozen=True)
class Moved:
    """A value whose dimension i in memory is the user's dimension `axes[i]`."""

    axes: tuple[int, ...]


#: Layout tag of channels-last values; others have a `Flat` or a `Moved`, values in the user's
#: order have none.
CHANNELS_LAST = "channels last"


def to_last(ndim: int) -> list[int]:
    """Axes that move dimension 1 behind the others."""
    return [0, *range(2, ndim), 1]


def from_last(ndim: int) -> list[int]:
    """Axes that move the last dimension to place 1."""
    return [0, ndim - 1, *range(1, ndim - 1)]


def moved_axis(axis: int, ndim: int) -> int:
    """Where dimension `axis` of the user's order stands in a channels-last value."""
    return to_last(ndim).index(axis % ndim)


def axes_of(tag: Any, ndim: int) -> list[int]:
    """Which of the user's dimensions each dimension in memory is."""
    if isinstance(tag, Moved):
        return list(tag.axes)
    return to_last(ndim) if tag == CHANNELS_LAST else list(range(ndim))


def tag_of(axes: list[int], shape: tuple[int, ...]) -> tuple[Any, list[int]]:
    """Return a tag for an order of dimensions, and the order that it stands for.

    Dimensions of one element may lie anywhere, so an order that differs from a common one by
    those alone counts as the common one.

    Parameters
    ----------
    axes : list of int
        The user's dimension at each place in memory; those of one element may be left out.
    shape : tuple of int
        The user's.
    """
    large = [axis for axis in axes if shape[axis] != 1]
    orders: list[tuple[Any, list[int]]] = [(None, list(range(len(shape))))]
    if len(shape) >= 3:
        orders.append((CHANNELS_LAST, to_last(len(shape))))
    exact = [(tag, order) for tag, order in orders if order == axes]
    alike = [
        (tag, order)
        for tag, order in reversed(orders)
        if [axis for axis in order if shape[axis] != 1] == large
    ]
    if exact or alike:
        return (exact or alike)[0]
    ones = [axis for axis, extent in enumerate(shape) if extent == 1]
    order = [*large, *ones]
    return Moved(tuple(order)), order

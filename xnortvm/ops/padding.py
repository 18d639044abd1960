# SPDX-License-Identifier: Apache-2.0
"""The padding block in front of convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xnortvm._tvm import te, tirx


def pad_image(
    x: Any,
    padding: tuple[int, int, int, int],
    value: Callable[[Any], Any],
    name: str = "pad",
    *,
    channels_last: bool = True,
) -> Any:
    """Pad an NHWC tensor expression by (top, left, bottom, right); nothing when all are 0.

    Parameters
    ----------
    value : callable
        From the index of the channel to the padding value.
    channels_last : bool
        False for an NCHW tensor.
    """
    if not any(padding):
        return x
    top, left, bottom, right = padding
    shape = [int(dim) for dim in x.shape]
    row_axis, column_axis = (1, 2) if channels_last else (2, 3)
    height, width = shape[row_axis], shape[column_axis]
    shape[row_axis] += top + bottom
    shape[column_axis] += left + right

    def element(*index: Any) -> Any:
        y, i = index[row_axis], index[column_axis]
        at = list(index)
        at[row_axis], at[column_axis] = y - top, i - left
        inside = []
        if top:
            inside.append(y >= top)
        if bottom:
            inside.append(y < height + top)
        if left:
            inside.append(i >= left)
        if right:
            inside.append(i < width + left)
        return tirx.if_then_else(
            tirx.all(*inside), x[tuple(at)], value(index[3 if channels_last else 1])
        )

    marks = {"xnortvm.op": "pad", "xnortvm.rows": int(not channels_last)}
    return te.compute(shape, element, name=name, attrs=marks)

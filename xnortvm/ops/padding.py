# SPDX-License-Identifier: Apache-2.0
"""The padding block in front of convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xnortvm._tvm import te, tirx


def pad_image(
    x: Any, padding: tuple[int, int, int, int], value: Callable[[Any], Any], name: str = "pad"
) -> Any:
    """Pad an NHWC tensor expression by (top, left, bottom, right); nothing when all are 0.

    Parameters
    ----------
    value : callable
        From the index of the last axis to the padding value.
    """
    if not any(padding):
        return x
    top, left, bottom, right = padding
    images, height, width, channels = (int(dim) for dim in x.shape)

    def element(n: Any, y: Any, i: Any, c: Any) -> Any:
        inside = []
        if top:
            inside.append(y >= top)
        if bottom:
            inside.append(y < height + top)
        if left:
            inside.append(i >= left)
        if right:
            inside.append(i < width + left)
        return tirx.if_then_else(tirx.all(*inside), x[n, y - top, i - left, c], value(c))

    shape = (images, height + top + bottom, width + left + right, channels)
    return te.compute(shape, element, name=name, attrs={"xnortvm.op": "pad"})

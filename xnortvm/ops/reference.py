# SPDX-License-Identifier: Apache-2.0
"""One slow and obvious NumPy reference for each operator; the tests compare with these alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnortvm.ops.layout import output_size, pack, unpack, unpack_weights


def sign(x: NDArray[Any], zero: str = "+1") -> NDArray[Any]:
    """Return ±1, and what ``zero`` says where x is 0."""
    at_zero = {"+1": 1, "-1": -1, "0": 0}[zero]
    return np.where(x < 0, -1, np.where(x == 0, at_zero, 1)).astype(x.dtype)


def bitpack(x: NDArray[Any], groups: int = 1, zero: str = "+1") -> NDArray[np.uint32]:
    """Return the packed signs of (..., C)."""
    return pack(x <= 0 if zero == "-1" else x < 0, groups)


def threshold_pack(
    acc: NDArray[np.int32], threshold: NDArray[np.int32], flip: NDArray[np.int32], groups: int = 1
) -> NDArray[np.uint32]:
    """Return the packed comparison of (..., C) accumulators."""
    return pack(np.broadcast_to((acc ^ flip) < threshold, acc.shape), groups)


def conv2d(
    x: NDArray[Any],
    w: NDArray[Any],
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    pad_value: float = 0,
) -> NDArray[Any]:
    """Convolve (N, H, W, C) by (O, KH, KW, C / groups), in the type of ``x``."""
    top, left, bottom, right = padding
    images, height, width, _ = x.shape
    outputs, kernel_h, kernel_w, per_group = w.shape
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=pad_value)
    rows = output_size(height, kernel_h, strides[0], top, bottom, dilation[0])
    columns = output_size(width, kernel_w, strides[1], left, right, dilation[1])
    result = np.zeros((images, rows, columns, outputs), dtype=x.dtype)
    for group in range(groups):
        inputs = padded[..., group * per_group : (group + 1) * per_group]
        chosen = slice(group * outputs // groups, (group + 1) * outputs // groups)
        for y in range(rows):
            for i in range(columns):
                top_row, left_column = y * strides[0], i * strides[1]
                window = inputs[
                    :,
                    top_row : top_row + dilation[0] * (kernel_h - 1) + 1 : dilation[0],
                    left_column : left_column + dilation[1] * (kernel_w - 1) + 1 : dilation[1],
                ]
                result[:, y, i, chosen] = np.tensordot(
                    window, w[chosen], axes=((1, 2, 3), (1, 2, 3))
                )
    return result


def bconv2d(
    a: NDArray[np.uint32],
    w: NDArray[np.uint32],
    *,
    channels: int,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
) -> NDArray[np.int32]:
    """Unpack, then convolve the values -1, 0 and +1 as integers."""
    return conv2d(
        unpack(a, channels, groups).astype(np.int32),
        unpack_weights(w, channels // groups).astype(np.int32),
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=groups,
        pad_value=pad_value,
    )


def bdense(a: NDArray[np.uint32], w: NDArray[np.uint32], *, channels: int) -> NDArray[np.int32]:
    """Unpack, then multiply the values -1, 0 and +1 as integers."""
    return unpack(a, channels).astype(np.int32) @ unpack_weights(w, channels).astype(np.int32).T


def bsum2d(
    a: NDArray[np.uint32],
    *,
    channels: int,
    outputs: int,
    kernel: Sequence[int],
    groups: int = 1,
    pad_value: int = 0,
    offset: int = 0,
    **geometry: Sequence[int],
) -> NDArray[np.int32]:
    """Unpack, then convolve with weights that are all 1; (N, OH, OW, O)."""
    ones = np.ones((outputs, *kernel, channels // groups), np.int32)
    values = unpack(a, channels, groups).astype(np.int32) + offset
    pad = pad_value + offset if pad_value else 0
    return conv2d(values, ones, groups=groups, pad_value=pad, **geometry)


def bmaxpool2d(
    a: NDArray[np.uint32],
    *,
    pool_size: Sequence[int],
    size: tuple[int, int],
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
) -> NDArray[np.uint32]:
    """Unpack, take the maximum over the positions of each window inside the input, pack."""
    images, height, width, packed = a.shape
    signs = unpack(a, packed * 32)
    result = np.full((images, *size, packed * 32), -1, dtype=np.int8)
    for y in range(size[0]):
        for x in range(size[1]):
            for ky in range(pool_size[0]):
                for kx in range(pool_size[1]):
                    row = y * strides[0] + ky * dilation[0] - padding[0]
                    column = x * strides[1] + kx * dilation[1] - padding[1]
                    if 0 <= row < height and 0 <= column < width:
                        here = signs[:, row, column]
                        result[:, y, x] = np.maximum(result[:, y, x], here)
    return pack(result < 0)

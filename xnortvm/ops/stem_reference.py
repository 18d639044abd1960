# SPDX-License-Identifier: Apache-2.0
"""What each method of `stem_conv2d` computes, in NumPy: its rounding on given data.

All take images (N, H, W, C) float32 and weights (O, KH, KW, C) float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnortvm.ops.layout import output_size
from xnortvm.ops.stem_rows import Quantum, bf16_values, quantised_image, quantised_weight
from xnortvm.ops.stem_winograd import transformed_weight
from xnortvm.ops.winograd import as_array
from xnortvm.ops.winograd_tile import Axis

Array = NDArray[Any]


def windows(x: Array, kernel: tuple[int, int], strides: list[int]) -> Array:
    """Return (N, rows, columns, KH, KW, C) views of a padded image."""
    views = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))
    return np.moveaxis(views[:, :: strides[0], :: strides[1]], 3, 5)


def padded(x: Array, padding: list[int], value: float = 0) -> Array:
    """Pad by (top, left, bottom, right)."""
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def exact(x: Array, w: Array, strides: list[int], padding: list[int], dtype: Any) -> Array:
    """Return the sums of all products in one precision."""
    outputs, kernel_h, kernel_w, _ = w.shape
    view = windows(padded(x, padding), (kernel_h, kernel_w), strides).astype(dtype)
    flat = view.reshape(*view.shape[:3], -1)
    result: Array = flat @ w.reshape(outputs, -1).T.astype(dtype)
    return result


def winograd(x: Array, w: Array, axes: tuple[Axis, Axis], padding: list[int]) -> Array:
    """Return what `winograd_te` computes, in float32."""
    y, a = axes
    top, left = padding[:2]
    points = transformed_weight(w, y, a)
    rows, columns = (
        axis.step * np.arange(axis.tiles)[:, None, None]
        + axis.stride * np.arange(axis.points)[None, :, None]
        + np.arange(axis.stride)
        for axis in axes
    )
    whole = padded(x, [top, left, _missing(rows, x.shape[1] + top), 0])
    whole = padded(whole, [0, 0, 0, _missing(columns, x.shape[2] + left)])
    # (N, tiles, i, phase, tiles, j, phase, C) → (N, tiles, tiles, i, j, terms)
    tiles = whole[:, rows[..., None, None, None], columns[None, None, None]]
    tiles = tiles.transpose(0, 1, 4, 2, 5, 3, 6, 7)
    tiles = tiles.reshape(*tiles.shape[:5], -1)
    into = [as_array(axis.matrices.input).astype(np.float32) for axis in axes]
    back = [as_array(axis.matrices.output).astype(np.float32) for axis in axes]
    there = _along(into[1], _along(into[0], tiles, 3), 4)
    sums = np.einsum("ntuijk,oijk->ntuijo", there, points, optimize=True)
    result = _along(back[0], _along(back[1], sums, 4), 3)
    images, outputs = len(x), len(w)
    joined = result.transpose(0, 1, 3, 2, 4, 5).reshape(
        images, y.tiles * y.tile, a.tiles * a.tile, outputs
    )
    return joined[:, : y.outputs, : a.outputs]


def bf16(x: Array, w: Array, strides: list[int], padding: list[int]) -> Array:
    """Return the sums of rounded products, in float32."""
    return exact(bf16_values(x), bf16_values(w), strides, padding, np.float32)


def int8(x: Array, w: Array, strides: list[int], padding: list[int], quantum: Quantum) -> Array:
    """Return what the integers stand for."""
    numbers, scale = quantised_weight(w)
    image = quantised_image(x, quantum).astype(np.int32) - quantum.zero
    # Whole numbers below 2⁵³: float64 adds them exactly, and faster than NumPy adds integers.
    sums = exact(image, numbers, strides, padding, np.float64)
    result: Array = sums.astype(np.float32) * (scale * np.float32(quantum.scale))
    return result


def computed(attrs: dict[str, Any], x: Array, w: Array) -> Array:
    """Return what a call of `stem_conv2d` computes, with the rounding of its method.

    Parameters
    ----------
    attrs : dict
        `stem_conv2d.attributes_of` the call, without groups and dilation unless it is exact.
    x : (N, H, W, C) float32
    w : (O, KH, KW, C) float32
    """
    strides, padding = attrs["strides"], attrs["padding"]
    if attrs["method"] == "winograd":
        return winograd(x, w, axes_of(attrs, x.shape[1:3], w.shape[1:3]), padding)
    if attrs["method"] == "bf16":
        return bf16(x, w, strides, padding)
    if attrs["method"] == "int8":
        return int8(x, w, strides, padding, Quantum(attrs["scale"], attrs["zero"]))
    return exact(x, w, strides, padding, np.float32)


def axes_of(attrs: dict[str, Any], size: Sequence[int], kernel: Sequence[int]) -> tuple[Axis, Axis]:
    """Return what Winograd's method needs to know of rows and columns."""
    top, left, bottom, right = attrs["padding"]
    y, x = (
        Axis(taps, stride, output_size(length, taps, stride, before, after, 1), tile)
        for taps, stride, length, before, after, tile in zip(
            kernel, attrs["strides"], size, (top, left), (bottom, right), attrs["tile"], strict=True
        )
    )
    return y, x


def _missing(places: Array, size: int) -> int:
    return max(int(places.max()) + 1 - size, 0)


def _along(matrix: Array, values: Array, axis: int) -> Array:
    """Multiply by a matrix along one axis, term by term in float32."""
    parts = np.moveaxis(values, axis, 0)
    rows = []
    for row in matrix:
        total = np.zeros_like(parts[0])
        for factor, part in zip(row, parts, strict=True):
            if factor:
                total = total + factor * part
        rows.append(total)
    return np.moveaxis(np.stack(rows), 0, axis)

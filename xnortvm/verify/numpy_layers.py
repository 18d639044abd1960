# SPDX-License-Identifier: Apache-2.0
"""Layers and pools in NumPy: windows as a view, products by BLAS.

Integers stay exact: they are multiplied as floats, which is exact as long as all partial sums can
be represented.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from xnortvm.ops import reference, stem_reference, unpack, unpack_weights
from xnortvm.ops.bmaxpool2d import pooled_size
from xnortvm.ops.stem_conv2d import plain_attributes

Array = np.ndarray[Any, Any]

_EXACT_FLOAT32 = 1 << 24


def _ints(values: Any) -> list[int]:
    return [int(value) for value in values]


def _sides(padding: Any, ndim: int = 2) -> list[int]:
    """Padding before all axes, then behind all axes."""
    widths = _ints(padding)
    if len(widths) == 1:
        return widths * (2 * ndim)
    return widths * 2 if len(widths) == ndim else widths


def windows(
    x: Array, size: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> Array:
    """View (N, H, W, C) as (N, OH, OW, C, KH, KW)."""
    spans = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    view = sliding_window_view(x, spans, axis=(1, 2))  # type: ignore[call-overload]
    chosen: Array = view[:, :: strides[0], :: strides[1], :, :: dilation[0], :: dilation[1]]
    return chosen


def convolve(
    x: Array,
    w: Array,
    *,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: float = 0,
) -> Array:
    """Convolve (N, H, W, C) by (O, KH, KW, C / groups) in the type of ``x``.

    Parameters
    ----------
    padding : sequence of int
        Top, left, bottom, right.
    """
    top, left, bottom, right = padding
    if any(padding):
        sides = ((0, 0), (top, bottom), (left, right), (0, 0))
        x = np.pad(x, sides, constant_values=pad_value)
    outputs, kernel_h, kernel_w, per_group = w.shape
    view = windows(x, (kernel_h, kernel_w), strides, dilation)
    images, height, width = view.shape[:3]
    matrices = w.transpose(0, 3, 1, 2).reshape(groups, outputs // groups, -1)
    result = np.empty((images, height, width, outputs), x.dtype)
    for group in range(groups):
        made = slice(group * outputs // groups, (group + 1) * outputs // groups)
        read = slice(group * per_group, (group + 1) * per_group)
        for image in range(images):
            columns = view[image, :, :, read].reshape(height * width, -1)
            result[image, ..., made] = (columns @ matrices[group].T).reshape(height, width, -1)
    return result


def _conv2d(attrs: Any, x: Array, w: Array) -> Array:
    last, ohwi = str(attrs.data_layout) == "NHWC", str(attrs.kernel_layout) == "OHWI"
    y = convolve(
        x if last else x.transpose(0, 2, 3, 1),
        w if ohwi else w.transpose(0, 2, 3, 1),
        strides=_ints(attrs.strides),
        padding=_sides(attrs.padding),
        dilation=_ints(attrs.dilation),
        groups=int(attrs.groups),
    )
    return y if last else y.transpose(0, 3, 1, 2)


def _stem_conv2d(attrs: Any, x: Array, w: Array) -> Array:
    """By the definition, or with the rounding of the method."""
    image = x if str(attrs["layout"]) == "NHWC" else x.transpose(0, 2, 3, 1)
    if str(attrs["method"]) != "exact":
        return stem_reference.computed(plain_attributes(attrs), image, w)
    return convolve(
        image,
        w,
        strides=_ints(attrs["strides"]),
        padding=_ints(attrs["padding"]),
        dilation=_ints(attrs["dilation"]),
        groups=int(attrs["groups"]),
    )


def _conv1d(attrs: Any, x: Array, w: Array) -> Array:
    before, after = _sides(attrs.padding, 1)
    y = convolve(
        x.transpose(0, 2, 1)[:, None],
        w.transpose(0, 2, 1)[:, None],
        strides=[1, int(attrs.strides[0])],
        padding=[0, before, 0, after],
        dilation=[1, int(attrs.dilation[0])],
        groups=int(attrs.groups),
    )
    return y[:, 0].transpose(0, 2, 1)


def _pool(kind: str) -> Callable[..., Array]:
    def pool(attrs: Any, x: Array) -> Array:
        last = str(attrs.layout) == "NHWC"
        x = x if last else x.transpose(0, 2, 3, 1)
        size, strides = _ints(attrs.pool_size), _ints(attrs.strides)
        dilation, sides = _ints(attrs.dilation), _sides(attrs.padding)
        out = [
            pooled_size(
                x.shape[1 + axis],
                size[axis],
                strides[axis],
                sides[axis],
                sides[2 + axis],
                dilation[axis],
                bool(attrs.ceil_mode),
            )
            for axis in (0, 1)
        ]
        # Behind the map: what the last window, which may hang over it, needs.
        need = [
            (out[axis] - 1) * strides[axis] + (size[axis] - 1) * dilation[axis] + 1
            for axis in (0, 1)
        ]
        after = [max(need[axis] - x.shape[1 + axis] - sides[axis], 0) for axis in (0, 1)]
        around = ((0, 0), (sides[0], after[0]), (sides[1], after[1]), (0, 0))
        fill = -np.inf if kind == "max" else 0

        def view(values: Array, fill: float) -> Array:
            padded = np.pad(values, around, constant_values=fill)
            return windows(padded, size, strides, dilation)[:, : out[0], : out[1]]

        if kind == "max":
            fill = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else fill
            y = view(x, fill).max(axis=(4, 5))
        else:
            inside = np.ones((1, *x.shape[1:3], 1), np.float64)
            if bool(attrs.count_include_pad):
                around_map = ((0, 0), (sides[0], sides[2]), (sides[1], sides[3]), (0, 0))
                whole = np.pad(inside, around_map, constant_values=1)
                extra = [max(n - e, 0) for n, e in zip(need, whole.shape[1:3], strict=True)]
                whole = np.pad(whole, ((0, 0), (0, extra[0]), (0, extra[1]), (0, 0)))
                count = windows(whole, size, strides, dilation)[:, : out[0], : out[1]]
            else:
                count = view(inside, 0)
            total = view(x.astype(np.float64), 0).sum(axis=(4, 5))
            y = (total / count.sum(axis=(4, 5))).astype(x.dtype)
        return y if last else y.transpose(0, 3, 1, 2)

    return pool


def _adaptive_avg_pool(attrs: Any, x: Array) -> Array | None:
    axes = (1, 2) if str(attrs.layout) == "NHWC" else (2, 3)
    size = None if attrs.output_size is None else _ints(attrs.output_size)
    if size not in (None, [1], [1, 1]):
        return None
    return x.mean(axis=axes, keepdims=True, dtype=np.float64).astype(x.dtype)


def _batch_norm(attrs: Any, x: Array, w: Array, b: Array, m: Array, v: Array) -> Any:
    shape = [1] * x.ndim
    shape[int(attrs.axis)] = -1
    scale = 1 / np.sqrt(v.astype(np.float64) + float(attrs.epsilon))
    scale = scale * w if bool(attrs.scale) else scale
    shift = (b if bool(attrs.center) else 0) - m * scale
    y = x * scale.reshape(shape) + shift.reshape(shape)
    return (y.astype(x.dtype), m, v)


def _mean(attrs: Any, x: Array) -> Array:
    axes = None if attrs.axis is None else tuple(_ints(attrs.axis))
    mean = np.mean(x, axis=axes, keepdims=bool(attrs.keepdims), dtype=np.float64)
    return np.asarray(mean).astype(x.dtype)


def _sum(attrs: Any, x: Array) -> Array:
    axes = None if attrs.axis is None else tuple(_ints(attrs.axis))
    wide = np.float64 if x.dtype.kind == "f" else None
    total = np.sum(x, axis=axes, keepdims=bool(attrs.keepdims), dtype=wide)
    return np.asarray(total).astype(x.dtype)


def _softmax(attrs: Any, x: Array) -> Array:
    axis = int(attrs.axis)
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _pad(attrs: Any, x: Array) -> Array | None:
    widths = np.reshape(_ints(attrs.pad_width), (-1, 2))
    if str(attrs.pad_mode) != "constant" or (widths < 0).any():
        return None
    return np.pad(x, widths, constant_values=float(attrs.pad_value))


def bconv2d(attrs: Any, packed: Array, weights: Array) -> Array:
    """Return the accumulators of a packed convolution: (N, H, W, C/32) uint32 → int32."""
    channels, groups = int(attrs["channels"]), int(attrs["groups"])
    offset, pad_value = int(attrs["offset"]), int(attrs["pad_value"])
    w = unpack_weights(weights, channels // groups)
    exact = w[0].size * (1 + abs(offset)) < _EXACT_FLOAT32
    dtype = "float32" if exact else "float64"
    signs: Array = unpack(packed, channels, groups).astype(dtype)
    y = convolve(
        signs + signs.dtype.type(offset),
        w.astype(dtype),
        strides=_ints(attrs["strides"]),
        padding=_ints(attrs["padding"]),
        dilation=_ints(attrs["dilation"]),
        groups=groups,
        pad_value=pad_value + offset if pad_value else 0,
    )
    return y.astype(np.int32)


def bdense(attrs: Any, packed: Array, weights: Array) -> Array:
    """Return the accumulators of a packed linear layer: (N, I/32) uint32 → (N, O) int32."""
    channels = int(attrs["channels"])
    dtype = "float32" if channels < _EXACT_FLOAT32 else "float64"
    a: Array = unpack(packed, channels).astype(dtype)
    w: Array = unpack_weights(weights, channels).astype(dtype)
    return np.asarray(a @ w.T, np.int32)


def _bsum2d(attrs: Any, packed: Array) -> Array:
    """Add up the activations of each window: a convolution by weights that are all 1."""
    lists = {key: _ints(attrs[key]) for key in ("kernel", "strides", "padding", "dilation")}
    numbers = {
        key: int(attrs[key]) for key in ("channels", "outputs", "groups", "pad_value", "offset")
    }
    sums = reference.bsum2d(packed, **lists, **numbers)  # type: ignore[arg-type]
    return (sums if numbers["groups"] > 1 else sums[..., :1]).astype(np.float32)


def _bmaxpool2d(attrs: Any, a: Array) -> Array:
    """Bit 1 is -1: the maximum is the bitwise `and` of a window; outside there are ones."""
    size, strides = _ints(attrs["pool_size"]), _ints(attrs["strides"])
    sides, dilation = _ints(attrs["padding"]), _ints(attrs["dilation"])
    out = [
        pooled_size(
            a.shape[1 + axis],
            size[axis],
            strides[axis],
            sides[axis],
            sides[2 + axis],
            dilation[axis],
            bool(attrs["ceil_mode"]),
        )
        for axis in (0, 1)
    ]
    need = [(out[i] - 1) * strides[i] + (size[i] - 1) * dilation[i] + 1 for i in (0, 1)]
    after = [max(need[i] - a.shape[1 + i] - sides[i], 0) for i in (0, 1)]
    around = ((0, 0), (sides[0], after[0]), (sides[1], after[1]), (0, 0))
    padded = np.pad(a, around, constant_values=np.uint32(0xFFFFFFFF))
    view = windows(padded, size, strides, dilation)[:, : out[0], : out[1]]
    pooled: Array = np.bitwise_and.reduce(np.bitwise_and.reduce(view, axis=-1), axis=-1)
    return pooled


LAYER_RULES: dict[str, Callable[..., Any]] = {
    "relax.nn.conv2d": _conv2d,
    "relax.nn.conv1d": _conv1d,
    "relax.nn.max_pool2d": _pool("max"),
    "relax.nn.avg_pool2d": _pool("avg"),
    "relax.nn.adaptive_avg_pool2d": _adaptive_avg_pool,
    "relax.nn.batch_norm": _batch_norm,
    "relax.nn.softmax": _softmax,
    "relax.nn.pad": _pad,
    "relax.mean": _mean,
    "relax.sum": _sum,
    "relax.xnortvm.sign": lambda attrs, x: reference.sign(x, str(attrs["zero"])),
    "relax.xnortvm.bitpack": lambda attrs, x: reference.bitpack(
        x, int(attrs["groups"]), str(attrs["zero"])
    ),
    "relax.xnortvm.threshold_pack": lambda attrs, acc, t, flip: reference.threshold_pack(
        acc, t, flip, int(attrs["groups"])
    ),
    "relax.xnortvm.bconv2d": lambda attrs, a, w, _: bconv2d(attrs, a, w),
    "relax.xnortvm.bdense": bdense,
    "relax.xnortvm.bsum2d": _bsum2d,
    "relax.xnortvm.bmaxpool2d": _bmaxpool2d,
    "relax.xnortvm.stem_conv2d": _stem_conv2d,
}
"""Operator name to ``rule(attributes, *arguments)``; None when a rule cannot tell."""

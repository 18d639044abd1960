# SPDX-License-Identifier: Apache-2.0
"""What Relax operators on whole tensors compute, in NumPy.

Elementwise operators are in `xnortvm.graph.pointwise`. A rule gets the call's attributes and its
arguments: arrays, numbers, and tuples of them. It returns an array, a list for a tuple, or None
when it cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def _axes(attrs: Any) -> tuple[int, ...] | None:
    return None if attrs.axis is None else tuple(int(axis) for axis in attrs.axis)


def _axis(attrs: Any) -> int | None:
    return None if attrs.axis is None else int(attrs.axis)


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda attrs, x: function(x, axis=_axes(attrs), keepdims=bool(attrs.keepdims))


def _arg_reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda attrs, x: function(x, axis=_axis(attrs), keepdims=bool(attrs.keepdims))


def _split(attrs: Any, x: Array) -> list[Array]:
    sections = attrs.indices_or_sections
    where = [int(i) for i in sections] if hasattr(sections, "__iter__") else int(sections)
    if isinstance(where, int):
        step = -(-x.shape[int(attrs.axis)] // where)
        where = [step * i for i in range(1, where)]
    return np.split(x, where, axis=int(attrs.axis))


def _strided_slice(
    attrs: Any, x: Array, axes: Any, begin: Any, end: Any, strides: Any = None
) -> Array:
    index = [slice(None)] * x.ndim
    for place, axis in enumerate(axes):
        step = int(strides[place]) if strides else 1
        first, last = int(begin[place]), int(end[place])
        length = x.shape[axis]
        if step < 0 and last < -length:
            index[axis] = slice(first, None, step)
        else:
            index[axis] = slice(first, last, step)
    return x[tuple(index)]


def _take(attrs: Any, x: Array, indices: Any) -> Array:
    return np.take(x, indices, axis=_axis(attrs), mode="clip" if attrs.mode == "clip" else "wrap")


def _permute(attrs: Any, x: Array) -> Array:
    return np.transpose(x, None if attrs.axes is None else [int(axis) for axis in attrs.axes])


def _expand_dims(attrs: Any, x: Array) -> Array:
    return np.expand_dims(x, _axes(attrs) or ())


def _cumulative(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda attrs, x: None if attrs.exclusive else function(x, axis=_axis(attrs))


def _full(attrs: Any, shape: Any, value: Any) -> Array:
    return np.full([int(extent) for extent in shape], value)


def _filled(value: int) -> Callable[..., Any]:
    return lambda attrs, shape: np.full([int(extent) for extent in shape], value)


def _filled_like(value: int) -> Callable[..., Any]:
    return lambda attrs, x: np.full_like(x, value)


NUMPY_OPS: dict[str, Callable[..., Any]] = {
    "relax.arange": lambda attrs, start, end, step: np.arange(start, end, step),
    "relax.argmax": _arg_reduction(np.argmax),
    "relax.argmin": _arg_reduction(np.argmin),
    "relax.broadcast_to": lambda attrs, x, shape: np.broadcast_to(x, [int(n) for n in shape]),
    "relax.concat": lambda attrs, parts: np.concatenate(parts, axis=_axis(attrs)),
    "relax.cumprod": _cumulative(np.cumprod),
    "relax.cumsum": _cumulative(np.cumsum),
    "relax.einsum": lambda attrs, parts: np.einsum(str(attrs.subscripts), *parts),
    "relax.expand_dims": _expand_dims,
    "relax.flatten": lambda attrs, x: x.reshape(-1),
    "relax.flip": lambda attrs, x: np.flip(x, int(attrs.axis)),
    "relax.full": _full,
    "relax.full_like": lambda attrs, x, value: np.full_like(x, value),
    "relax.gather_elements": lambda attrs, x, indices: np.take_along_axis(
        x, indices, int(attrs.axis)
    ),
    "relax.matmul": lambda attrs, a, b: np.matmul(a, b),
    "relax.max": _reduction(np.max),
    "relax.mean": _reduction(np.mean),
    "relax.min": _reduction(np.min),
    "relax.ones": _filled(1),
    "relax.ones_like": _filled_like(1),
    "relax.outer": lambda attrs, a, b: np.outer(a, b),
    "relax.permute_dims": _permute,
    "relax.prod": _reduction(np.prod),
    "relax.repeat": lambda attrs, x: np.repeat(x, int(attrs.repeats), _axis(attrs)),
    "relax.reshape": lambda attrs, x, shape: x.reshape([int(extent) for extent in shape]),
    "relax.split": _split,
    "relax.squeeze": lambda attrs, x: np.squeeze(x, _axes(attrs)),
    "relax.stack": lambda attrs, parts: np.stack(parts, axis=_axis(attrs) or 0),
    "relax.std": _reduction(np.std),
    "relax.strided_slice": _strided_slice,
    "relax.sum": _reduction(np.sum),
    "relax.take": _take,
    "relax.tile": lambda attrs, x: np.tile(x, [int(n) for n in attrs.repeats]),
    "relax.tril": lambda attrs, x, k: np.tril(x, int(k)),
    "relax.triu": lambda attrs, x, k: np.triu(x, int(k)),
    "relax.variance": _reduction(np.var),
    "relax.zeros": _filled(0),
    "relax.zeros_like": _filled_like(0),
}
"""Operator name to rule."""

# SPDX-License-Identifier: Apache-2.0
"""A slow NumPy interpreter of Relax functions: what a module means, without building it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xnortvm._tvm import ir, relax, runtime
from xnortvm.graph.dataflow import Graph, op_name
from xnortvm.graph.pointwise import POINTWISE, apply, scalar_operand
from xnortvm.ops import reference
from xnortvm.ops.bmaxpool2d import pooled_size

Array = np.ndarray[Any, Any]


def evaluate(mod: Any, *inputs: Array, name: str = "main") -> list[Array]:
    """Return the outputs of a function on the given inputs."""
    result = _function(mod, mod[name], list(inputs))
    return list(result) if isinstance(result, tuple) else [result]


def values_of(mod: Any, *inputs: Array) -> dict[str, Array]:
    """Return every tensor that ``main`` computes, by the name of its variable."""
    env: dict[Any, Any] = {}
    _function(mod, mod["main"], list(inputs), env)
    return {str(var.name): value for var, value in env.items() if isinstance(value, np.ndarray)}


def _function(mod: Any, func: Any, inputs: list[Array], env: dict[Any, Any] | None = None) -> Any:
    graph = Graph(func)
    env = {} if env is None else env
    env.update(zip(graph.params, inputs, strict=True))
    for var, expr in graph.bindings:
        env[var] = _value(mod, env, expr)
    return _value(mod, env, graph.result)


def _value(mod: Any, env: dict[Any, Any], expr: Any) -> Any:
    if isinstance(expr, relax.Var):
        return env[expr]
    scalar = scalar_operand(expr)
    if scalar is not None:
        return scalar
    if isinstance(expr, ir.GenericConst) and isinstance(expr.value, runtime.Tensor):
        return expr.value.numpy()
    if isinstance(expr, relax.Tuple):
        return tuple(_value(mod, env, field) for field in expr.fields)
    if isinstance(expr, relax.TupleGetItem):
        return _value(mod, env, expr.tuple_value)[expr.index]
    if isinstance(expr, relax.ShapeExpr):
        return tuple(int(dim) for dim in expr.values)
    if not isinstance(expr, ir.Call):
        raise NotImplementedError(f"{type(expr)}: {expr}")
    args = [_value(mod, env, arg) for arg in expr.args if not isinstance(arg, ir.GlobalVar)]
    if isinstance(expr.op, ir.GlobalVar):
        return _function(mod, mod[expr.op], args)
    operator = op_name(expr)
    rule = OPERATORS.get(operator)
    if rule is not None:
        result = rule(expr.attrs, *args)
    elif operator in POINTWISE:
        result = apply(expr, args)
    else:
        raise NotImplementedError(operator)
    if isinstance(expr.ty, relax.TensorType):
        shape = tuple(int(dim) for dim in expr.ty.shape.values)
        assert result.shape == shape, (operator, result.shape, shape)
    return result


def _ints(values: Any) -> list[int]:
    return [int(value) for value in values]


def _four(padding: Any) -> list[int]:
    widths = _ints(padding)
    return widths * 4 if len(widths) == 1 else widths * 2 if len(widths) == 2 else widths


def _conv2d(attrs: Any, x: Array, w: Array) -> Array:
    last = str(attrs.data_layout) == "NHWC"
    if not last:
        x, w = x.transpose(0, 2, 3, 1), w.transpose(0, 2, 3, 1)
    y = reference.conv2d(
        x.astype(np.float64),
        w.astype(np.float64),
        strides=_ints(attrs.strides),
        padding=_four(attrs.padding),
        dilation=_ints(attrs.dilation),
        groups=int(attrs.groups),
    ).astype(x.dtype)
    return y if last else y.transpose(0, 3, 1, 2)


def _conv1d(attrs: Any, x: Array, w: Array) -> Array:
    before, after = (_ints(attrs.padding) * 2)[:2]
    y = reference.conv2d(
        x.transpose(0, 2, 1)[:, None].astype(np.float64),
        w.transpose(0, 2, 1)[:, None].astype(np.float64),
        strides=[1, int(attrs.strides[0])],
        padding=[0, before, 0, after],
        dilation=[1, int(attrs.dilation[0])],
        groups=int(attrs.groups),
    )
    return y[:, 0].transpose(0, 2, 1).astype(x.dtype)


def _pool(kind: str) -> Callable[..., Array]:
    def pool(attrs: Any, x: Array) -> Array:
        last = str(attrs.layout) == "NHWC"
        x = x if last else x.transpose(0, 2, 3, 1)
        window, strides, dilation = (
            _ints(attrs.pool_size),
            _ints(attrs.strides),
            _ints(attrs.dilation),
        )
        top, left, bottom, right = _four(attrs.padding)
        n, height, width, c = x.shape
        ceil = bool(attrs.ceil_mode)
        sizes = [
            pooled_size(size, window[i], strides[i], a, b, dilation[i], ceil)
            for i, (size, a, b) in enumerate(((height, top, bottom), (width, left, right)))
        ]
        y = np.empty((n, *sizes, c), x.dtype)
        for row in range(sizes[0]):
            for column in range(sizes[1]):
                inside = [
                    x[:, r, q]
                    for r in (row * strides[0] - top + k * dilation[0] for k in range(window[0]))
                    for q in (
                        column * strides[1] - left + k * dilation[1] for k in range(window[1])
                    )
                    if 0 <= r < height and 0 <= q < width
                ]
                stack = np.stack(inside)
                if kind == "max":
                    y[:, row, column] = stack.max(0)
                else:
                    whole = bool(attrs.count_include_pad)
                    count = window[0] * window[1] if whole else len(inside)
                    y[:, row, column] = stack.astype(np.float64).sum(0) / count
        return y if last else y.transpose(0, 3, 1, 2)

    return pool


def _adaptive(attrs: Any, x: Array) -> Array:
    last = str(attrs.layout) == "NHWC"
    axes = (1, 2) if last else (2, 3)
    size = None if attrs.output_size is None else _ints(attrs.output_size)
    assert size in (None, [1], [1, 1])
    return x.mean(axis=axes, keepdims=True, dtype=np.float64).astype(x.dtype)


def _reduce(fn: Any) -> Callable[..., Array]:
    def reduce(attrs: Any, x: Array) -> Array:
        axes = tuple(_ints(attrs.axis)) if attrs.axis is not None else None
        return np.asarray(fn(x, axis=axes, keepdims=bool(attrs.keepdims))).astype(x.dtype)

    return reduce


def _pad(attrs: Any, x: Array) -> Array:
    widths = np.reshape(_ints(attrs.pad_width), (-1, 2))
    return np.pad(x, widths, constant_values=float(attrs.pad_value))


def _slice(attrs: Any, x: Array, axes: Any, begin: Any, end: Any, strides: Any = None) -> Array:
    index = [slice(None)] * x.ndim
    for i, axis in enumerate(axes):
        step = 1 if strides is None else int(strides[i])
        index[int(axis)] = slice(int(begin[i]), int(end[i]), step)
    return x[tuple(index)]


def _batch_norm(attrs: Any, x: Array, w: Array, b: Array, m: Array, v: Array) -> Any:
    shape = [1] * x.ndim
    shape[int(attrs.axis)] = -1
    w, b, m, v = (value.reshape(shape).astype(np.float64) for value in (w, b, m, v))
    return ((x - m) / np.sqrt(v + float(attrs.epsilon)) * w + b).astype(np.float32), m, v


def _bconv2d(attrs: Any, a: Array, w: Array, base: Array) -> Array:
    """As the kernel does: popcounts against the table of border classes."""
    from xnortvm.ops import border_classes, unpack, unpack_weights

    channels, groups = int(attrs["channels"]), int(attrs["groups"])
    pad_value = int(attrs["pad_value"])
    padding = _ints(attrs["padding"])
    strides, dilation = _ints(attrs["strides"]), _ints(attrs["dilation"])
    signs = unpack_weights(w, channels // groups).astype(np.int32)
    dot = reference.conv2d(
        unpack(a, channels, groups).astype(np.int32),
        signs,
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=groups,
        pad_value=pad_value or 1,
    )
    total = np.count_nonzero(signs, axis=(1, 2, 3))
    if base.shape[:2] == (1, 1):
        return (base + dot - total).astype(np.int32)
    rows, columns = (
        border_classes(
            a.shape[1 + i], w.shape[1 + i], strides[i], padding[i], padding[2 + i], dilation[i]
        )
        for i in (0, 1)
    )
    at = np.ix_(
        [rows.of(y) for y in range(rows.size)], [columns.of(x) for x in range(columns.size)]
    )
    return (base[at] + dot - total).astype(np.int32)


def _bsum2d(attrs: Any, a: Array) -> Array:
    lists = ("kernel", "strides", "padding", "dilation")
    numbers = ("channels", "outputs", "groups", "pad_value", "offset")
    sums = reference.bsum2d(
        a, **{key: _ints(attrs[key]) for key in lists}, **{key: int(attrs[key]) for key in numbers}
    )
    return (sums if int(attrs["groups"]) > 1 else sums[..., :1]).astype(np.float32)


OPERATORS: dict[str, Callable[..., Any]] = {
    "relax.nn.conv2d": _conv2d,
    "relax.nn.conv1d": _conv1d,
    "relax.matmul": lambda _, a, b: np.matmul(a.astype(np.float64), b).astype(a.dtype),
    "relax.nn.max_pool2d": _pool("max"),
    "relax.nn.avg_pool2d": _pool("avg"),
    "relax.nn.adaptive_avg_pool2d": _adaptive,
    "relax.nn.batch_norm": _batch_norm,
    "relax.nn.pad": _pad,
    "relax.nn.softmax": lambda attrs, x: (
        (e := np.exp(x - x.max(int(attrs.axis), keepdims=True)))
        / e.sum(int(attrs.axis), keepdims=True)
    ),
    "relax.mean": _reduce(lambda x, **k: np.mean(x, dtype=np.float64, **k)),
    "relax.sum": _reduce(lambda x, **k: np.sum(x, dtype=np.float64, **k)),
    "relax.max": _reduce(np.max),
    "relax.min": _reduce(np.min),
    "relax.concat": lambda attrs, parts: np.concatenate(parts, int(attrs.axis)),
    "relax.split": lambda attrs, x: tuple(
        np.split(
            x,
            _ints(attrs.indices_or_sections)
            if hasattr(attrs.indices_or_sections, "__len__")
            else int(attrs.indices_or_sections),
            int(attrs.axis),
        )
    ),
    "relax.take": lambda attrs, x, index: np.take(x, index, int(attrs.axis)),
    "relax.reshape": lambda _, x, shape: x.reshape(shape),
    "relax.permute_dims": lambda attrs, x: x.transpose(
        None if attrs.axes is None else _ints(attrs.axes)
    ),
    "relax.expand_dims": lambda attrs, x: np.expand_dims(x, tuple(_ints(attrs.axis))),
    "relax.squeeze": lambda attrs, x: np.squeeze(
        x, None if attrs.axis is None else tuple(_ints(attrs.axis))
    ),
    "relax.broadcast_to": lambda _, x, shape: np.broadcast_to(x, shape),
    "relax.strided_slice": _slice,
    "relax.ones_like": lambda _, x: np.ones_like(x),
    "relax.zeros_like": lambda _, x: np.zeros_like(x),
    "relax.full_like": lambda _, x, value: np.full_like(x, value),
    "relax.full": lambda attrs, shape, value: np.full(shape, value, str(attrs.dtype)),
    "relax.xnortvm.sign": lambda attrs, x: reference.sign(x, str(attrs["zero"])),
    "relax.xnortvm.bitpack": lambda attrs, x: reference.bitpack(
        x, int(attrs["groups"]), str(attrs["zero"])
    ),
    "relax.xnortvm.threshold_pack": lambda attrs, acc, t, flip: reference.threshold_pack(
        acc, t, flip, int(attrs["groups"])
    ),
    "relax.xnortvm.bconv2d": _bconv2d,
    "relax.xnortvm.bdense": lambda attrs, a, w: reference.bdense(
        a, w, channels=int(attrs["channels"])
    ),
    "relax.xnortvm.bsum2d": lambda attrs, a: _bsum2d(attrs, a),
    "relax.xnortvm.bmaxpool2d": lambda attrs, a: reference.bmaxpool2d(
        a,
        pool_size=_ints(attrs["pool_size"]),
        strides=_ints(attrs["strides"]),
        padding=_ints(attrs["padding"]),
        dilation=_ints(attrs["dilation"]),
        size=[
            pooled_size(
                a.shape[1 + i],
                _ints(attrs["pool_size"])[i],
                _ints(attrs["strides"])[i],
                _ints(attrs["padding"])[i],
                _ints(attrs["padding"])[2 + i],
                _ints(attrs["dilation"])[i],
                bool(attrs["ceil_mode"]),
            )
            for i in (0, 1)
        ],
    ),
}

# SPDX-License-Identifier: Apache-2.0
"""NCHW → NHWC for the whole network: channels become the last, contiguous dimension.

The pass walks the bindings once. A value that has been computed channels-last stays so: operators
that do not care about the order pass it on (with their axes and constants rearranged), and it is
put back only where an operator without a rule reads it. So a transpose remains where the user's
data enter or leave in another order, and nowhere in between.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from math import prod
from typing import Any

import numpy as np

from xnortvm._tvm import IRModule, ir, relax
from xnortvm.graph.dataflow import Builder, Graph, const, op_name, rebuild, shape_of, value_of
from xnortvm.graph.pointwise import is_pointwise, scalar_operand
from xnortvm.transform import rearrange
from xnortvm.transform.orders import (
    CHANNELS_LAST,
    Flat,
    Moved,
    axes_of,
    moved_axis,
    to_last,
)
from xnortvm.transform.transposed import expand, is_expandable


def channels_last(mod: IRModule) -> IRModule:
    """Compute convolutions and everything around them channels-last.

    Convolutions come out as NHWC with OHWI weights, 1-D ones as 2-D convolutions of height 1.
    Inputs and outputs of the function keep the user's order.
    """
    layouts = _Layouts(_reach_layers(Graph(mod["main"])))
    return rebuild(rebuild(mod, layouts.visit, layouts.finish), _drop_idle)


def _drop_idle(_: Builder, var: Any, call: Any) -> Any:
    """Reshapes to the same shape only gave a value another name."""
    idle = op_name(call) == "relax.reshape" and shape_of(call.args[0]) == shape_of(var)
    return call.args[0] if idle and shape_of(var) is not None else None


def _reach_layers(graph: Graph) -> set[Any]:
    """Variables that reach a convolution or a pooling without being reduced before.

    Those that come in the user's order, inputs and results of operators without a rule, are
    reordered once, where they enter: a sign and a padding then stand next to their layer.
    """
    wanted: set[Any] = set()
    for var, call in reversed(list(graph.calls())):
        layer = op_name(call) in LAYERS
        if layer or (var in wanted and (is_pointwise(call) or op_name(call) in FOLLOWERS)):
            fields = call.args[0].fields if isinstance(call.args[0], relax.Tuple) else call.args
            wanted |= {a for a in fields if isinstance(a, relax.Var) and a.ty.ndim == var.ty.ndim}
    return wanted


class _Layouts:
    """State of one run: the layout of each new variable and the reordered copies made so far."""

    def __init__(self, wanted: set[Any]) -> None:
        self.wanted = wanted  # to be channels-last as early as possible
        self.reordered: set[Any] = set()  # new variables of `wanted` in the user's order
        self.noted = 0
        self.tags: dict[Any, Any] = {}
        self.last: dict[Any, Any] = {}  # user's order -> channels-last
        self.plain: dict[Any, Any] = {}  # ours -> user's order

    def visit(self, builder: Builder, var: Any, call: Any) -> Any:
        self._note(builder)
        rule = RULES.get(op_name(call))
        if rule is None and is_pointwise(call):
            rule = _pointwise
        if rule is not None:
            args = [self.entering(builder, arg) for arg in call.args]
            call = ir.Call(call.op, args, call.attrs, call.ty_args, call.span)
        result = rule(self, builder, var, call) if rule is not None else None
        if result is not None:
            return result
        args = [self.user_order(builder, arg) for arg in call.args]
        return ir.Call(call.op, args, call.attrs, call.ty_args, call.span)

    def _note(self, builder: Builder) -> None:
        """Find which of the values since the last call are in the user's order and wanted."""
        for old, new in islice(builder.env.items(), self.noted, None):
            if old in self.wanted and isinstance(new, relax.Var) and self.tag(new) is None:
                self.reordered.add(new)
        self.noted = len(builder.env)

    def entering(self, builder: Builder, expr: Any) -> Any:
        """Return an operand, or the channels-last form of one that is to be reordered."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.entering(builder, field) for field in expr.fields])
        if isinstance(expr, relax.Var) and expr in self.reordered:
            return self.channels_last(builder, expr)
        return expr

    def finish(self, builder: Builder, result: Any) -> Any:
        return self.user_order(builder, result)

    def tag(self, expr: Any) -> Any:
        return self.tags.get(expr) if isinstance(expr, relax.Var) else None

    def emit(self, builder: Builder, expr: Any, tag: Any, var: Any, span: Any) -> Any:
        new = builder.emit(expr, str(var.name), span)
        self.tags[new] = tag
        return new

    def channels_last(self, builder: Builder, expr: Any) -> Any:
        """Return the channels-last form of a tensor of rank 3 or more."""
        value = value_of(expr)
        if value is not None:
            return const(value.transpose(to_last(value.ndim)))
        if self.tag(expr) == CHANNELS_LAST:
            return expr
        if expr not in self.last:
            own = axes_of(self.tag(expr), expr.ty.ndim)
            axes = [own.index(axis) for axis in to_last(expr.ty.ndim)]
            new = builder.emit(relax.op.permute_dims(expr, axes), f"{expr.name}_nhwc")
            self.tags[new], self.last[expr] = CHANNELS_LAST, new
            if self.tag(expr) is None:
                self.plain[new] = expr
        return self.last[expr]

    def user_order(self, builder: Builder, expr: Any) -> Any:
        """Return the form of a value that has the user's order of dimensions."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.user_order(builder, field) for field in expr.fields])
        tag = self.tag(expr)
        if tag is None:
            return expr
        if expr not in self.plain:
            if isinstance(tag, Flat):
                batch = shape_of(expr)[0]  # type: ignore[index]
                split = relax.op.reshape(expr, (batch, tag.spatial, tag.channels))
                turned = builder.emit(relax.op.permute_dims(builder.emit(split), [0, 2, 1]))
                new = builder.emit(relax.op.reshape(turned, (batch, tag.channels * tag.spatial)))
            else:
                own = axes_of(tag, expr.ty.ndim)
                axes = [own.index(axis) for axis in range(len(own))]
                new = builder.emit(relax.op.permute_dims(expr, axes))
            self.plain[expr] = new
            if tag == CHANNELS_LAST:
                self.last[new] = expr
        return self.plain[expr]


Rule = Callable[[_Layouts, Builder, Any, Any], Any]


def _conv2d(state: _Layouts, builder: Builder, var: Any, call: Any) -> Any:
    attrs = call.attrs
    if str(attrs.data_layout) != "NCHW" or str(attrs.kernel_layout) != "OIHW":
        return None
    conv = relax.op.nn.conv2d(
        state.channels_last(builder, call.args[0]),
        state.channels_last(builder, call.args[1]),
        strides=_ints(attrs.strides),
        padding=_ints(attrs.padding),
        dilation=_ints(attrs.dilation),
        groups=int(attrs.groups),
        data_layout="NHWC",
        kernel_layout="OHWI",
        out_layout="NHWC",
    )
    return state.emit(builder, conv, CHANNELS_LAST, var, call.span)


def _conv1d(state: _Layouts, builder: Builder, var: Any, call: Any) -> Any:
    attrs = call.attrs
    weight = value_of(call.args[1])
    if str(attrs.data_layout) != "NCW" or weight is None or shape_of(call.args[0]) is None:
        return None
    conv = relax.op.nn.conv2d(
        _one_row(builder, state.channels_last(builder, call.args[0])),
        const(weight.transpose(0, 2, 1)[:, None]),
        strides=[1, int(attrs.strides[0])],
        padding=[0, int(attrs.padding[0]), 0, int(attrs.padding[1])],
        dilation=[1, int(attrs.dilation[0])],
        groups=int(attrs.groups),
        data_layout="NHWC",
        kernel_layout="OHWI",
        out_layout="NHWC",
    )
    wide = builder.emit(conv, str(var.name), call.span)
    n, _, length, o = shape_of(wide)  # type: ignore[misc]
    squeezed = relax.op.reshape(wide, (n, length, o))
    return state.emit(builder, squeezed, CHANNELS_LAST, var, call.span)


def _one_row(builder: Builder, x: Any) -> Any:
    """(N, L, C) → (N, 1, L, C); padding stays last, where layers look for it."""
    n, length, c = shape_of(x)  # type: ignore[misc]
    pad = builder.producer(x)
    widths = _ints(pad.attrs.pad_width) if op_name(pad) == "relax.nn.pad" else []
    if not widths or str(pad.attrs.pad_mode) != "constant" or any(widths[:2] + widths[4:]):
        return builder.emit(relax.op.reshape(x, (n, 1, length, c)))
    inner = builder.emit(relax.op.reshape(pad.args[0], (n, 1, length - sum(widths), c)))
    around = [0, 0, 0, 0, *widths[2:4], 0, 0]
    return builder.emit(relax.op.nn.pad(inner, around, pad_value=float(pad.attrs.pad_value)))


def _transposed(state: _Layouts, builder: Builder, var: Any, call: Any) -> Any:
    if not is_expandable(var, call):
        return None
    wide = expand(builder, var, call, state.channels_last(builder, call.args[0]))
    return None if wide is None else state.emit(builder, wide, CHANNELS_LAST, var, call.span)


def _pool(state: _Layouts, builder: Builder, var: Any, call: Any) -> Any:
    if str(call.attrs.layout) != "NCHW" or not isinstance(call.args[0], relax.Var):
        return None
    name = op_name(call).removeprefix("relax.nn.")
    x = state.channels_last(builder, call.args[0])
    if name == "adaptive_avg_pool2d":
        size = call.attrs.output_size
        pooled = relax.op.nn.adaptive_avg_pool2d(
            x, None if size is None else _ints(size), layout="NHWC"
        )
    else:
        pooled = getattr(relax.op.nn, name)(
            x,
            pool_size=_ints(call.attrs.pool_size),
            strides=_ints(call.attrs.strides),
            padding=_ints(call.attrs.padding),
            dilation=_ints(call.attrs.dilation),
            ceil_mode=bool(call.attrs.ceil_mode),
            count_include_pad=bool(call.attrs.count_include_pad),
            layout="NHWC",
        )
    return state.emit(builder, pooled, CHANNELS_LAST, var, call.span)


def _pointwise(state: _Layouts, builder: Builder, var: Any, call: Any) -> Any:
    tags = {state.tag(arg) for arg in call.args} - {None}
    if len(tags) != 1:
        return None
    (tag,) = tags
    ndim = var.ty.ndim
    arrange = _ARRANGE[str if tag == CHANNELS_LAST else type(tag)]
    args = [arrange(state, builder, arg, tag, ndim) for arg in call.args]
    if any(arg is None for arg in args):
        return None
    if op_name(call) == "relax.nn.prelu":
        axis = int(call.attrs.axis) % ndim
        if tag != CHANNELS_LAST or axis != 1:
            return None
        new = relax.op.nn.prelu(args[0], call.args[1], ndim - 1)
    else:
        new = ir.Call(call.op, args, call.attrs, call.ty_args, call.span)
    return state.emit(builder, new, tag, var, call.span)


def _arrange_last(state: _Layouts, builder: Builder, arg: Any, _: Any, ndim: int) -> Any:
    """One operand of an elementwise operator in channels-last order, None when it has none."""
    if scalar_operand(arg) is not None:
        return arg
    value = value_of(arg)
    if value is not None:
        if value.size == 1 or value.ndim > ndim:
            return arg if value.ndim <= ndim else None
        full = value.reshape((1,) * (ndim - value.ndim) + value.shape)
        return const(full.transpose(to_last(ndim)))
    if state.tag(arg) == CHANNELS_LAST:
        return arg if arg.ty.ndim == ndim else None
    shape = shape_of(arg)
    if shape is None or state.tag(arg) is not None:
        return None
    if prod(shape) != 1 and len(shape) < ndim:
        arg = builder.emit(relax.op.reshape(arg, (1,) * (ndim - len(shape)) + shape))
    return arg if prod(shape) == 1 and len(shape) < ndim else state.channels_last(builder, arg)


def _arrange_flat(state: _Layouts, _: Builder, arg: Any, tag: Flat, ndim: int) -> Any:
    if scalar_operand(arg) is not None or state.tag(arg) == tag:
        return arg
    value = value_of(arg)
    if value is None or ndim != 2:
        return None
    if value.ndim == 0 or value.shape[-1] == 1:
        return arg
    return const(value[..., tag.order()])


def _arrange_moved(state: _Layouts, _: Builder, arg: Any, tag: Moved, ndim: int) -> Any:
    if scalar_operand(arg) is not None or state.tag(arg) == tag:
        return arg if scalar_operand(arg) is not None or arg.ty.ndim == ndim else None
    value = value_of(arg)
    if value is None or value.ndim > ndim:
        return None
    if value.size == 1:
        return arg
    return const(value.reshape((1,) * (ndim - value.ndim) + value.shape).transpose(tag.axes))


_ARRANGE: dict[type, Callable[..., Any]] = {
    str: _arrange_last,
    Flat: _arrange_flat,
    Moved: _arrange_moved,
}


def _reduce(state: _Layouts, builder: Builder, var: Any, call: Any) -> Any:
    x = call.args[0]
    if state.tag(x) != CHANNELS_LAST:
        return None
    ndim = x.ty.ndim
    axes = [int(a) % ndim for a in call.attrs.axis] if call.attrs.axis else list(range(ndim))
    moved = [moved_axis(axis, ndim) for axis in axes]
    keep = bool(call.attrs.keepdims)
    kept_spatial = [a for a in range(2, ndim) if a not in axes]
    if not keep and 1 not in axes and kept_spatial:
        return None  # the dimensions that stay would need reordering
    new = getattr(relax.op, op_name(call).removeprefix("relax."))(x, moved, keepdims=keep)
    return state.emit(builder, new, CHANNELS_LAST if keep else None, var, call.span)


def _concat(state: _Layouts, builder: Builder, var: Any, call: Any) -> Any:
    fields = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else []
    if CHANNELS_LAST not in {state.tag(field) for field in fields}:
        return None
    ndim = var.ty.ndim
    parts = [state.channels_last(builder, f) for f in fields]
    new = relax.op.concat(parts, moved_axis(int(call.attrs.axis), ndim))
    return state.emit(builder, new, CHANNELS_LAST, var, call.span)


def _pad(state: _Layouts, builder: Builder, var: Any, call: Any) -> Any:
    x = call.args[0]
    if state.tag(x) != CHANNELS_LAST:
        return None
    widths = np.reshape(_ints(call.attrs.pad_width), (-1, 2))[to_last(x.ty.ndim)]
    new = relax.op.nn.pad(
        x,
        [int(w) for w in widths.reshape(-1)],
        pad_value=float(call.attrs.pad_value),
        pad_mode=str(call.attrs.pad_mode),
    )
    return state.emit(builder, new, CHANNELS_LAST, var, call.span)


def _slice(state: _Layouts, builder: Builder, var: Any, call: Any) -> Any:
    x, axes, *bounds = call.args
    if state.tag(x) != CHANNELS_LAST or not isinstance(axes, relax.Tuple):
        return None
    moved = [moved_axis(int(scalar_operand(a)), x.ty.ndim) for a in axes.fields]  # type: ignore[arg-type]
    new = relax.op.strided_slice(x, moved, *[list(b.fields) for b in bounds])
    return state.emit(builder, new, CHANNELS_LAST, var, call.span)


def _matmul(state: _Layouts, builder: Builder, var: Any, call: Any) -> Any:
    x, weight = call.args
    tag, value = state.tag(x), value_of(weight)
    if not isinstance(tag, Flat) or value is None or value.ndim != 2:
        return None
    new = relax.op.matmul(x, const(value[tag.order()]))
    return state.emit(builder, new, None, var, call.span)


def _ints(values: Any) -> list[int]:
    return [int(value) for value in values]


RULES: dict[str, Rule] = {
    "relax.nn.conv2d": _conv2d,
    "relax.nn.conv1d": _conv1d,
    "relax.nn.conv2d_transpose": _transposed,
    "relax.nn.conv1d_transpose": _transposed,
    "relax.nn.max_pool2d": _pool,
    "relax.nn.avg_pool2d": _pool,
    "relax.nn.adaptive_avg_pool2d": _pool,
    "relax.mean": _reduce,
    "relax.sum": _reduce,
    "relax.max": _reduce,
    "relax.min": _reduce,
    "relax.concat": _concat,
    "relax.nn.pad": _pad,
    "relax.strided_slice": _slice,
    "relax.reshape": rearrange.reshape,
    "relax.permute_dims": rearrange.permute,
    "relax.split": rearrange.split,
    "relax.take": rearrange.take,
    "relax.image.resize2d": rearrange.resize,
    "relax.matmul": _matmul,
}

_ON_IMAGES = (_conv2d, _conv1d, _transposed, _pool, rearrange.resize)

#: Layers that decide the order of their input, and operators that keep it.
LAYERS = frozenset(name for name, rule in RULES.items() if rule in _ON_IMAGES)
FOLLOWERS = frozenset(
    name for name, rule in RULES.items() if rule in (_concat, _pad, _slice, rearrange.take)
)

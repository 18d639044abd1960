# SPDX-License-Identifier: Apache-2.0
"""`simplify`: calls that return their argument go, constants become as small as they can be.

Exporters write a scalar as a tensor of the activation's size, and a product of factors as the dense
tensor. Here a constant operand keeps only the axes along which it varies, and a multiplication by
an outer product α ⊗ β ⊗ γ becomes one multiplication per factor: o + h + w numbers, not o·h·w.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xnortvm._tvm import IRModule, ir, relax
from xnortvm.frontend.constant import constant
from xnortvm.frontend.factors import outer_factors
from xnortvm.graph.dataflow import Builder, is_const, op_name, rebuild, value_of

Array = np.ndarray[Any, Any]


def simplify(mod: IRModule) -> IRModule:
    """Apply the rules of this file to every call of ``main``.

    Parameters
    ----------
    mod : IRModule
        With a dataflow function ``main``, constants folded.

    Returns
    -------
    IRModule
        The calls that stay keep their layer names.
    """

    def visit(builder: Builder, var: Any, call: Any) -> Any:
        name = op_name(call)
        idle = _IDLE.get(name)
        argument = idle(call) if idle is not None else None
        if argument is not None and _type(argument) == _type(var):
            return argument
        if name in _BROADCASTING:
            call = _narrowed(builder, call, _type(var)[0])
        return _factored(builder, call) if name == "relax.multiply" else call

    return rebuild(mod, visit)


def _type(expr: Any) -> tuple[list[Any], str]:
    """Return extents (numbers, or symbolic ones as text) and dtype of a tensor."""
    ty = expr.ty
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        return [None], ""
    return [getattr(dim, "value", None) or str(dim) for dim in ty.shape.values], str(ty.dtype)


def _first(call: Any) -> Any:
    return call.args[0]


def _other_than(number: int, *places: int) -> Callable[[Any], Any]:
    """Make the rule ``x · 1 → x`` and its like: one operand is `number`, the other one is left."""

    def other(call: Any) -> Any:
        for place in places:
            value = value_of(call.args[place])
            if value is not None and (value == number).all():
                return call.args[1 - place]
        return None

    return other


def _unpermuted(call: Any) -> Any:
    axes = call.attrs.axes
    still = axes is not None and [int(axis) for axis in axes] == list(range(len(axes)))
    return call.args[0] if still else None


_IDLE: dict[str, Callable[[Any], Any]] = {
    "relax.add": _other_than(0, 0, 1),
    "relax.astype": _first,
    "relax.broadcast_to": _first,
    "relax.divide": _other_than(1, 1),
    "relax.multiply": _other_than(1, 0, 1),
    "relax.permute_dims": _unpermuted,
    "relax.reshape": _first,
    "relax.subtract": _other_than(0, 1),
}
"""Operators that may return an argument as it is: which one, if shape and dtype agree."""

_BROADCASTING = frozenset(
    f"relax.{name}"
    for name in (
        *("add", "divide", "maximum", "minimum", "multiply", "power", "subtract", "where"),
        *("equal", "greater", "greater_equal", "less", "less_equal", "not_equal"),
        *("logical_and", "logical_or"),
    )
)


def _narrowed(builder: Builder, call: Any, result: list[Any]) -> Any:
    """Give every constant operand extent 1 along the axes along which it does not vary."""
    args = list(call.args)
    for place, arg in enumerate(args):
        value = _constant_of(builder, arg)
        if value is None:
            continue
        small = _squeezed(value)
        if is_const(arg) and small.shape == value.shape:
            continue
        others = [_type(other)[0] for at, other in enumerate(args) if at != place]
        if _broadcast([list(small.shape), *others]) == result:
            args[place] = constant(small.astype(_type(arg)[1], copy=False))
    if all(new.same_as(old) for new, old in zip(args, call.args, strict=True)):
        return call
    return ir.Call(call.op, args, call.attrs, call.ty_args, call.span)


def _constant_of(builder: Builder, arg: Any) -> Array | None:
    """Return a constant that broadcasts to the operand: its value, or what it is filled with."""
    if is_const(arg):
        return value_of(arg)
    maker = builder.producer(arg)
    place, number = _FILLS.get(op_name(maker), (None, None))
    if number is not None:
        return np.asarray(number)
    return None if place is None else value_of(maker.args[place])


_FILLS: dict[str, tuple[int | None, int | None]] = {
    "relax.broadcast_to": (0, None),
    "relax.full": (1, None),
    "relax.full_like": (1, None),
    "relax.ones": (None, 1),
    "relax.ones_like": (None, 1),
    "relax.zeros": (None, 0),
    "relax.zeros_like": (None, 0),
}
"""Operators that repeat a value: the argument that has it, or the value."""


def _squeezed(value: Array) -> Array:
    """Return the value without the repetitions; without axes when all elements are equal."""
    for axis, extent in enumerate(value.shape):
        if extent > 1:
            first = value.take([0], axis)
            value = first if (value == first).all() else value
    return value.reshape(()) if value.size == 1 else value


def _broadcast(shapes: Sequence[list[Any]]) -> list[Any] | None:
    """Return the shape that shapes broadcast to, None when they do not."""
    rank = max(len(shape) for shape in shapes)
    padded = [[1] * (rank - len(shape)) + shape for shape in shapes]
    result = []
    for extents in zip(*padded, strict=True):
        distinct = {extent for extent in extents if extent != 1}
        if len(distinct) > 1:
            return None
        result.append(distinct.pop() if distinct else 1)
    return result


def _factored(builder: Builder, call: Any) -> Any:
    """Write ``x · (α ⊗ β ⊗ γ)`` as ``((x · α) · β) · γ``."""
    for place in (0, 1):
        value = value_of(call.args[place])
        if value is None or value.ndim < 2 or is_const(call.args[1 - place]):
            continue
        factors = outer_factors(value)
        if len(factors) > 1:
            x = call.args[1 - place]
            for factor in factors:
                x = builder.emit(relax.op.multiply(x, constant(factor)), span=call.span)
            return x
    return call

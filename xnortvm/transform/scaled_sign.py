# SPDX-License-Identifier: Apache-2.0
"""Scales of signs move behind the operators that only move values, and behind the layers.

Transposes, reshapes, slices and (for a > 0) max-pools choose among the values of a tensor; a scale
and an offset that are the same for all values may as well be applied behind them:

    move(a·sign(x) + b)   →   a·move(sign(x)) + b        and so for values that are joined

A factor that is computed at run time, such as XNOR-Net's mean |x| of each row, leaves the sum of a
layer when it is the same for all of its terms:

    (sign(x)·f) @ W       →   (sign(x) @ W)·f        f: one number for each row
    conv(sign(x)·f, W)    →   conv(sign(x), W)·f     f: one for each sample; in a 1×1 convolution
                                                     without padding one for each pixel, too
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xnortvm._tvm import IRModule, ir, relax
from xnortvm.graph.dataflow import Builder, op_name, rebuild, shape_of, value_of
from xnortvm.patterns.activations import PASS_THROUGH

_MOVES = PASS_THROUGH
_LAYERS = frozenset({"relax.nn.conv2d", "relax.matmul"})
_SCALES = ("relax.multiply", "relax.add")


def sink_sign_scales(mod: IRModule) -> IRModule:
    """Apply scales and offsets of signs after operators that move values, factors after layers."""
    return rebuild(mod, _visit)


def _visit(builder: Builder, var: Any, call: Any) -> Any:
    if op_name(call) in _LAYERS and value_of(call.args[1]) is not None:
        return _behind_layer(builder, var, call)
    joins = op_name(call) == "relax.concat" and isinstance(call.args[0], relax.Tuple)
    if op_name(call) not in _MOVES and not joins:
        return None
    if op_name(call) == "relax.reshape":
        split = _per_sample(builder, var, call)
        if split is not None:
            return split
    found = [_chain(builder, field) for field in (call.args[0].fields if joins else call.args[:1])]
    sources, chains = zip(*found, strict=True)
    numbers = [[(name, value_of(constant)) for name, constant in chain] for chain in chains]
    if not chains[0] or any(each != numbers[0] for each in numbers):
        return None
    if any(op_name(builder.producer(s)) not in _MOVES | {"relax.xnortvm.sign"} for s in sources):
        return None
    falls = any(name == "relax.multiply" and value <= 0 for name, value in numbers[0])  # type: ignore[operator]
    if falls and op_name(call) == "relax.nn.max_pool2d":
        return None
    args = [relax.Tuple(sources) if joins else sources[0], *call.args[1:]]
    value = builder.emit(ir.Call(call.op, args, call.attrs, call.ty_args), str(var.name), call.span)
    for name, constant in reversed(chains[0]):
        value = builder.emit(getattr(relax.op, name.removeprefix("relax."))(value, constant))
    return value


def _chain(builder: Builder, source: Any) -> tuple[Any, list[tuple[str, Any]]]:
    """Split a value into its source and the numbers that scale and shift it, outermost first."""
    chain: list[tuple[str, Any]] = []
    while (step := _scalar_step(builder.producer(source))) is not None:
        name, constant, source = step
        chain.append((name, constant))
    return source, chain


def _scalar_step(call: Any) -> tuple[str, Any, Any] | None:
    """(operator, constant, variable) of a product or sum with one number."""
    if op_name(call) not in _SCALES:
        return None
    for constant, source in (call.args, call.args[::-1]):
        value = value_of(constant)
        if value is not None and value.ndim == 0 and isinstance(source, relax.Var):
            return op_name(call), constant, source
    return None


class Factor(NamedTuple):
    """One step of ``sign(x) · f · 2 / g``: operator and right operand, a variable or a number."""

    operator: str
    operand: Any


def _factors(builder: Builder, value: Any) -> tuple[Any, list[Factor]]:
    """Split a product into the sign in it and its factors, innermost first.

    Nothing is split off where the innermost value is no sign.
    """
    steps: list[Factor] = []
    source = value
    while (step := _factor_step(builder, source)) is not None:
        factor, source = step
        steps.append(factor)
    while op_name(call := builder.producer(source)) != "relax.xnortvm.sign":
        inner = _scalar_step(call)
        if inner is None and op_name(call) not in _MOVES:
            return value, []
        source = call.args[0] if inner is None else inner[2]
    kept = [i for i, factor in enumerate(steps) if isinstance(factor.operand, relax.Var)]
    if not kept:
        return value, []
    steps = steps[: kept[-1] + 1]  # numbers inside of the last variable stay where they are
    for _ in steps:
        value = _factor_step(builder, value)[1]  # type: ignore[index]
    return value, steps[::-1]


def _factor_step(builder: Builder, value: Any) -> tuple[Factor, Any] | None:
    """Return the outermost factor of a product and what it multiplies."""
    call = builder.producer(value)
    name = op_name(call)
    if name not in ("relax.multiply", "relax.divide"):
        return None
    rank = value.ty.ndim
    places = ((0, 1), (1, 0)) if name == "relax.multiply" else ((0, 1),)
    for inner, other in places:
        source, factor = call.args[inner], _narrow(builder, call.args[other])
        number = value_of(factor)
        if not isinstance(source, relax.Var) or shape_of(source) != shape_of(value):
            continue
        if number is not None and number.ndim == 0:
            return Factor(name, factor), source
        small = isinstance(factor, relax.Var) and factor.ty.ndim == rank
        if small and (shape_of(factor) or (0,))[-1] == 1:
            return Factor(name, factor), source
    return None


def _narrow(builder: Builder, factor: Any) -> Any:
    """Return what is repeated to give a factor."""
    while op_name(builder.producer(factor)) == "relax.broadcast_to":
        factor = builder.producer(factor).args[0]
    return factor


def _behind_layer(builder: Builder, var: Any, call: Any) -> Any:
    source, factors = _factors(builder, call.args[0])
    moved = [Factor(f.operator, _of_layer(builder, call, f.operand)) for f in factors]
    if not moved or any(factor.operand is None for factor in moved):
        return None
    layer = ir.Call(call.op, [source, *call.args[1:]], call.attrs, call.ty_args, call.span)
    value = builder.emit(layer, str(var.name), call.span)
    for factor in moved:
        apply = getattr(relax.op, factor.operator.removeprefix("relax."))
        value = builder.emit(apply(value, factor.operand))
    return value


def _of_layer(builder: Builder, call: Any, factor: Any) -> Any:
    """Return a factor of a layer's input as a factor of its output, None where it is none."""
    shape = shape_of(factor)
    if value_of(factor) is not None or op_name(call) == "relax.matmul" or shape is None:
        return factor
    if shape[1:3] == (1, 1):
        return factor
    kernel, strides = shape_of(call.args[1]), [int(s) for s in call.attrs.strides]
    if kernel is None or kernel[1:3] != (1, 1) or any(int(p) for p in call.attrs.padding):
        return None
    if strides == [1, 1]:
        return factor
    ends = list(shape[1:3])
    return builder.emit(relax.op.strided_slice(factor, [1, 2], [0, 0], ends, strides))


def _per_sample(builder: Builder, var: Any, call: Any) -> Any:
    """``reshape(sign(x)·f)`` → ``reshape(sign(x))·f`` where f is one number for each sample."""
    source, factors = _factors(builder, call.args[0])
    shape = shape_of(var)
    if not factors or shape is None:
        return None
    ones = (1,) * (len(shape) - 1)
    for factor in factors:
        dims = () if value_of(factor.operand) is not None else shape_of(factor.operand)
        if dims is None or any(dim != 1 for dim in dims[1:]) or dims[:1] not in ((), shape[:1]):
            return None
    value = builder.emit(ir.Call(call.op, [source, *call.args[1:]], call.attrs, call.ty_args))
    for factor in factors:
        operand = factor.operand
        if value_of(operand) is None:
            operand = builder.emit(relax.op.reshape(operand, (shape[0], *ones)))
        apply = getattr(relax.op, factor.operator.removeprefix("relax."))
        value = builder.emit(apply(value, operand))
    return value

# SPDX-License-Identifier: Apache-2.0
"""Chains of multiplications and additions by constants → as few as their shapes allow.

Γ = α ⊗ β ⊗ γ stays factored: two factors are multiplied at compile time only when the product is
no larger than one of them, so that case 4 keeps o + h + w numbers. Batch norm's scale joins α.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xnortvm import ops
from xnortvm._tvm import IRModule, relax
from xnortvm.graph.dataflow import Builder, Graph, const, dtype_of, op_name, rebuild, value_of
from xnortvm.graph.factors import factors_of
from xnortvm.graph.pointwise import Array


@dataclass(frozen=True)
class Linear:
    """x·scales[0]·scales[1]⋯ + shift of one earlier value."""

    source: Any
    scales: tuple[Array, ...]
    shift: Array | None


def fold_affine(mod: IRModule) -> IRModule:
    """Merge chains of linear operators with constants into one scale per shape and one shift."""
    graph = Graph(mod["main"])
    chains: dict[Any, Linear] = {}
    inner: set[Any] = set()
    for var, call in graph.calls():
        step = _step(call)
        if step is None or dtype_of(var) != "float32":
            continue
        before = chains.get(step.source)
        single = len(graph.users.get(step.source, ())) == 1
        joined = _join(before, step) if before is not None and single else None
        if joined is not None:
            inner.add(step.source)
        chains[var] = joined or step

    def visit(builder: Builder, var: Any, call: Any) -> Any:
        chain = chains.get(var)
        if chain is None or var in inner:
            return None
        return _emit(builder, builder.new(chain.source), chain, call)

    return rebuild(mod, visit)


def _step(call: Any) -> Linear | None:
    """One operator as a linear function of its only variable operand."""
    name = op_name(call)
    if name == "relax.xnortvm.affine":
        scale, shift = (value_of(arg) for arg in call.args[1:])
        if scale is None or shift is None:
            return None
        return Linear(call.args[0], (scale,), shift)
    if name not in ("relax.multiply", "relax.add", "relax.subtract", "relax.divide"):
        return None
    left, right = call.args
    swap = isinstance(right, relax.Var) and name in ("relax.multiply", "relax.add")
    source, value = (right, value_of(left)) if swap else (left, value_of(right))
    if value is None or not isinstance(source, relax.Var) or value.dtype != np.float32:
        return None
    if value.ndim > source.ty.ndim or call.ty.ndim != source.ty.ndim:
        return None
    if name == "relax.divide":
        return Linear(source, (1 / value,), None) if np.all(value != 0) else None
    if name == "relax.multiply":
        return Linear(source, tuple(factors_of(value)), None)
    return Linear(source, (), value if name == "relax.add" else -value)


def _join(first: Linear, then: Linear) -> Linear | None:
    """then ∘ first, or None when a constant would grow."""
    shift = first.shift
    for scale in then.scales:
        if shift is not None:
            shift = _product(shift, scale)
            if shift is None:
                return None
    if then.shift is not None:
        if shift is None:
            shift = then.shift
        elif not _nested(shift, then.shift):
            return None
        else:
            shift = shift + then.shift
    scales = list(first.scales)
    for scale in then.scales:
        scales = _merge(scales, scale)
    return Linear(first.source, tuple(scales), shift)


def _merge(scales: list[Array], scale: Array) -> list[Array]:
    for i, known in enumerate(scales):
        product = _product(known, scale)
        if product is not None:
            return [*scales[:i], product, *scales[i + 1 :]]
    return [*scales, scale]


def _nested(a: Array, b: Array) -> bool:
    """Whether broadcasting two constants gives nothing larger than one of them."""
    try:
        size = int(np.prod(np.broadcast_shapes(a.shape, b.shape)))
    except ValueError:
        return False
    return size <= max(a.size, b.size)


def _product(a: Array, b: Array) -> Array | None:
    product: Array | None = (a * b).astype(np.float32) if _nested(a, b) else None
    return product


def _emit(builder: Builder, value: Any, chain: Linear, call: Any) -> Any:
    scales = [scale for scale in chain.scales if not (scale == 1).all()]
    shift = chain.shift if chain.shift is not None and chain.shift.any() else None
    scales.sort(key=lambda scale: (scale.shape or (1,))[-1])
    if shift is not None and scales:
        *others, last = scales
        for scale in others:
            value = builder.emit(relax.op.multiply(value, const(scale)), span=call.span)
        return ops.affine(value, const(last), const(shift))
    for scale in scales[:-1]:
        value = builder.emit(relax.op.multiply(value, const(scale)), span=call.span)
    if scales:
        return relax.op.multiply(value, const(scales[-1]))
    return value if shift is None else relax.op.add(value, const(shift))

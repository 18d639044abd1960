# SPDX-License-Identifier: Apache-2.0
"""Steps of float sums in a schedule: what a block reads, and a step in the place of its loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xnortvm._tvm import ir, s_tir, tirx, tvm, tvm_ffi
from xnortvm.schedules.fmla import function_of
from xnortvm.schedules.steps import ACTIVATIONS, LANES, WEIGHTS, WRITTEN, Access, Step, Sums


def sums_of(sch: Any, block: Any) -> Sums | None:
    """Return where the float sum of a block reads; None where that does not move linearly."""
    node = sch.get(block)
    axes = [axis.var for axis in node.iter_vars]
    summed = [int(axis.iter_type) == tirx.IterVar.CommReduce for axis in node.iter_vars]
    spatial = summed.count(False)
    value = node.body.value
    if str(value.ty.dtype) != "float32" or any(summed[:spatial]) or not 1 < spatial < len(axes):
        return None
    accesses = [_access(load, axes, spatial - 1) for load in _loads(value).values()]
    if len(accesses) != 3 or None in accesses:
        return None
    written, activations, weights = (access for access in accesses if access is not None)
    if any(activations.slopes[spatial - 1]) or any(map(any, weights.slopes[: spatial - 1])):
        return None
    extents = tuple(int(axis.dom.extent) for axis in node.iter_vars[spatial:])
    return Sums(written, activations, weights, spatial, extents)


def _loads(value: Any) -> dict[str, Any]:
    """Return the loads of ``sum + activation * weight`` by what they read, none of others."""
    if not isinstance(value, tirx.Add) or not isinstance(value.b, tirx.Mul):
        return {}
    loads = {WRITTEN: value.a, ACTIVATIONS: value.b.a, WEIGHTS: value.b.b}
    return loads if all(isinstance(load, ir.TensorLoad) for load in loads.values()) else {}


def _access(load: Any, axes: Sequence[Any], channel: int) -> Access | None:
    dtype = str(axes[channel].ty.dtype)
    vector = tirx.Var("vector", dtype)
    by_vectors = {axes[channel]: vector * tirx.const(LANES, dtype)}
    steps = [*axes[:channel], vector, *axes[channel + 1 :]]
    simplify = tvm.sym.Analyzer().simplify
    slopes = []
    for index in load.indices:
        found = tvm.sym.detect_linear_equation(simplify(_replaced(index, by_vectors)), steps)
        if not found or not all(isinstance(slope, tirx.IntImm) for slope in found):
            return None
        slopes.append([int(slope) for slope in found[:-1]])
    shape = tuple(int(size) for size in load.source.ty.shape)
    return Access(shape, tuple(zip(*slopes, strict=True)))


def _replaced(expr: Any, values: Mapping[Any, Any]) -> Any:
    return tvm_ffi.structural_map(expr, (tirx.Var, lambda var: values.get(var, var)))


def put_step(sch: Any, loop: Any, step: Step) -> tuple[Any, str]:
    """Set a step in the place of its loops, the outermost of which is given.

    Returns
    -------
    block
        That of the step.
    str
        LLVM code that it calls.
    """
    block = sch.blockize(loop)
    old = sch.get(block)
    nest, values = old.body, {}
    while isinstance(nest, tirx.For):
        values[nest.loop_var] = tirx.const(0, str(nest.loop_var.ty.dtype))
        nest = nest.body
    for axis, value in zip(nest.block.iter_vars, nest.iter_values, strict=True):
        values[axis.var] = _replaced(value, values)
    loads = _loads(nest.block.body.value)
    addresses = []
    for name, place in step.pointers:
        first = [_replaced(index, values) for index in loads[name].indices]
        indices = [index + moved for index, moved in zip(first, place, strict=True)]
        addresses.append(tirx.address_of(tirx.BufferLoad(loads[name].source, indices)))
    function, code = function_of(step.accumulators, step.loads, step.products)
    call = tirx.Evaluate(tirx.call_extern("void", function, *addresses))
    new = s_tir.SBlock(
        old.iter_vars, old.reads, old.writes, old.name_hint, call, annotations=old.annotations
    )
    sch.state.replace(sch.get_sref(block), new, {old: new})
    return block, code

# SPDX-License-Identifier: Apache-2.0
"""A scheduled Relax module → one program with all its kernels in order."""

from __future__ import annotations

from typing import Any

import numpy as np

from xnortvm._tvm import IRModule, ir, relax, relax_transform, tirx, tvm
from xnortvm.graph.dataflow import Graph, dtype_of, op_name, shape_of, value_of
from xnortvm.target import Target
from xnortvm.tools.emulation.program import INPUT, OUTPUT, Program

Array = np.ndarray[Any, Any]


def walk(mod: IRModule, inputs: list[Array], program: Program, prefix: str = "") -> list[int]:
    """Add the calls of ``main`` to a program; every value that a kernel computes is an output.

    Parameters
    ----------
    mod : IRModule
        After `pipeline.kernel_phases`.
    inputs : list of ndarray
        Of ``main``.
    program : Program
    prefix : str
        Put before the names of the kernels.

    Returns
    -------
    list of int
        The slots of what ``main`` returns.
    """
    graph = Graph(relax_transform.RewriteDataflowReshape()(mod)["main"])
    slots: dict[Any, list[int]] = {
        param: [program.add(INPUT, value)]
        for param, value in zip(graph.params, inputs, strict=True)
    }

    def arguments(expr: Any) -> list[int]:
        if isinstance(expr, relax.Var):
            return slots[expr]
        if isinstance(expr, relax.Tuple):
            return [slot for field in expr.fields for slot in arguments(field)]
        value = value_of(expr)
        assert value is not None, expr
        return [program.add(INPUT, value)]

    for var, expr in graph.bindings:
        if isinstance(expr, (relax.Var, relax.Tuple)):
            slots[var] = arguments(expr)
        elif isinstance(expr, relax.TupleGetItem):
            slots[var] = [slots[expr.tuple_value][expr.index]]
        elif op_name(expr) == "relax.reshape":
            (of,) = arguments(expr.args[0])
            of = program.slots[of].view_of if program.slots[of].view_of >= 0 else of
            slots[var] = [program.add(OUTPUT, _blank(var.ty), view_of=of)]
        else:
            assert op_name(expr) == "relax.call_tir", expr
            kernel, taken = expr.args[:2]
            given = arguments(taken)
            fields = getattr(var.ty, "fields", [var.ty])
            slots[var] = [program.add(OUTPUT, _blank(field)) for field in fields]
            program.calls.append((prefix + kernel.name_hint, [*given, *slots[var]]))
    return arguments(graph.result)


def kernels(mod: IRModule, prefix: str = "") -> dict[str, Any]:
    """Return the kernels of a scheduled module under the names that `walk` calls them by."""
    return {
        prefix + gvar.name_hint: mod[gvar].with_attr("global_symbol", prefix + gvar.name_hint)
        for gvar in mod.get_global_vars()
        if isinstance(mod[gvar], tirx.PrimFunc)
    }


def library(functions: dict[str, Any], target: Target) -> Any:
    """Compile kernels into one library."""
    return tvm.compile(ir.IRModule(functions), target.tvm)


def _blank(tensor_type: Any) -> Array:
    tensor = relax.Var("blank", tensor_type)
    shape = shape_of(tensor)
    assert shape is not None, tensor_type
    return np.zeros(shape, dtype_of(tensor))

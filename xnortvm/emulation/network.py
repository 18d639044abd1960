# SPDX-License-Identifier: Apache-2.0
"""A scheduled Relax module → one program with all its kernels in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xnortvm import pipeline
from xnortvm._tvm import IRModule, ir, relax, relax_transform, tirx, tvm
from xnortvm.emulation.program import INPUT, OUTPUT, Program
from xnortvm.graph.dataflow import Graph, dtype_of, op_name, shape_of, value_of
from xnortvm.target import Target
from xnortvm.transform.group import KERNEL_LAYER

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Network:
    """A model that is compiled and ready to be run.

    Attributes
    ----------
    graph : IRModule
        After the phases that do not depend on the target: what it must compute.
    inputs : list of ndarray
    mod : IRModule
        The same after the phases that make kernels.
    prefix : str
        Before the names of its kernels in `program` and `functions`.
    program : Program
    results : list of int
        The slots of what ``main`` returns.
    """

    graph: IRModule
    inputs: list[Array]
    mod: IRModule
    prefix: str
    program: Program
    results: list[int]

    @property
    def functions(self) -> dict[str, Any]:
        """Its kernels, for `library`."""
        return kernels(self.mod, self.prefix)

    @property
    def layers(self) -> dict[str, list[str]]:
        """From the kernels that compute layers, without prefix, to the names of those layers."""
        return {
            str(gvar.name_hint): [str(layer) for layer in self.mod[gvar].attrs[KERNEL_LAYER]]
            for gvar in self.mod.get_global_vars()
            if isinstance(self.mod[gvar], tirx.PrimFunc)
            and KERNEL_LAYER in (self.mod[gvar].attrs or {})
        }


def network(
    name: str,
    graph: IRModule,
    inputs: list[Array],
    target: Target,
    prefix: str = "",
    decisions: pipeline.Pass | None = None,
) -> Network:
    """Make the kernels of a model for a target, by the rules or with the decisions of records."""
    mod = pipeline.run(graph, pipeline.kernel_phases(target, decisions))
    program = Program(name)
    results = walk(mod, inputs, program, prefix)
    return Network(graph, inputs, mod, prefix, program, results)


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

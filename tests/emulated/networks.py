# SPDX-License-Identifier: Apache-2.0
"""A whole network, compiled by the whole pipeline → one program with all its kernels in order."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.emulated.image import INPUT, OUTPUT, Program
from xnortvm import pipeline
from xnortvm._tvm import ir, relax, runtime, tvm
from xnortvm.graph.dataflow import Graph, dtype_of, op_name, shape_of, value_of
from xnortvm.target import Target, resolve

Array = np.ndarray[Any, Any]

#: Whose kernels say what is right.
ORACLE = "x86-64-v3"


def network(
    name: str, graph: Any, inputs: list[Array], target: Target, prefix: str
) -> tuple[Program, dict[str, Any]]:
    """Return a program and the kernels it calls.

    AVX2 kernels, which are run here, say what every kernel must compute, bit by bit.

    Parameters
    ----------
    name : str
    graph : IRModule
        What `xnortvm.api.lower` returns.
    inputs : list of array
    target : Target
        Whose kernels the program calls.
    prefix : str
        Put before the names of the kernels.
    """
    here = resolve(ORACLE)
    expected = Program(name)
    kernels = pipeline.run(graph, pipeline.kernel_phases(here))
    _walk(kernels, inputs, expected, "")
    _run_here(expected, tvm.compile(ir.IRModule(_kernels(kernels, "")), here.tvm))

    program = Program(name)
    kernels = pipeline.run(graph, pipeline.kernel_phases(target))
    _walk(kernels, inputs, program, prefix)
    results = [slot.value for slot in expected.slots if slot.role == OUTPUT]
    slots = [slot for slot in program.slots if slot.role == OUTPUT]
    for slot, result in zip(slots, results, strict=True):
        assert slot.value.shape == result.shape
        slot.value = result
    return program, _kernels(kernels, prefix)


def _kernels(mod: Any, prefix: str) -> dict[str, Any]:
    return {
        prefix + gvar.name_hint: mod[gvar].with_attr("global_symbol", prefix + gvar.name_hint)
        for gvar in mod.get_global_vars()
        if gvar.name_hint != "main"
    }


def _walk(mod: Any, inputs: list[Array], program: Program, prefix: str) -> None:
    """Add the calls of ``main``; every value that a kernel computes is an output."""
    graph = Graph(mod["main"])
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
        if isinstance(expr, relax.Var):
            slots[var] = slots[expr]
        elif isinstance(expr, relax.TupleGetItem):
            slots[var] = [slots[expr.tuple_value][expr.index]]
        else:
            assert op_name(expr) == "relax.call_tir", expr
            kernel, taken = expr.args[:2]
            fields = getattr(var.ty, "fields", [var.ty])
            given = arguments(taken)
            slots[var] = [program.add(OUTPUT, _blank(field)) for field in fields]
            program.calls.append((prefix + kernel.name_hint, [*given, *slots[var]]))


def _blank(tensor_type: Any) -> Array:
    tensor = relax.Var("blank", tensor_type)
    shape = shape_of(tensor)
    assert shape is not None, tensor_type
    return np.zeros(shape, dtype_of(tensor))


def _run_here(program: Program, library: Any) -> None:
    """Fill in what this machine computes."""
    tensors = [runtime.tensor(slot.value) for slot in program.slots]
    for kernel, arguments in program.calls:
        library[kernel](*(tensors[index] for index in arguments))
    for slot, tensor in zip(program.slots, tensors, strict=True):
        slot.value = tensor.numpy()

# SPDX-License-Identifier: Apache-2.0
"""Run a whole network that was compiled for CUDA, kernel after kernel, on the emulator."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.cuda.emulator import Program
from xnortvm import api, pipeline
from xnortvm._tvm import IRModule, ir, relax
from xnortvm.graph.dataflow import is_const, op_name, value_of
from xnortvm.runtime.trace import KernelCall
from xnortvm.target import resolve
from xnortvm.transform.group import KERNEL_LAYER

Values = dict[Any, Any]


def kernels_of(model: Any, example: Any, target: str) -> IRModule:
    """Return the scheduled module that `xnortvm.compile` would build."""
    return scheduled(api.lower(model, example_inputs=example), target)


def scheduled(graph: IRModule, target: str) -> IRModule:
    """Return the kernels of a module after every phase that does not know the target."""
    return pipeline.run(graph, pipeline.kernel_phases(resolve(target)))


def emulate(
    mod: IRModule, inputs: list[np.ndarray], arch: str, calls: list[KernelCall] | None = None
) -> list[np.ndarray]:
    """Return the outputs of ``main``, each kernel run from the CUDA source that TVM generates.

    Calls of kernels of layers are added to `calls`, as `xnortvm.runtime.trace.record` has them.
    """
    programs: dict[str, Program] = {}
    main = mod["main"]
    values: Values = dict(zip(main.params, inputs, strict=True))
    for block in main.body.blocks:
        for binding in block.bindings:
            values[binding.var] = _value(mod, binding.value, values, programs, arch, calls)
    result = _argument(main.body.body, values)
    return result if isinstance(result, list) else [result]


def _value(
    mod: IRModule,
    expr: Any,
    values: Values,
    programs: dict[str, Program],
    arch: str,
    calls: list[KernelCall] | None,
) -> Any:
    if not isinstance(expr, ir.Call):
        return _argument(expr, values)
    name = op_name(expr)
    if name == "relax.call_tir":
        kernel = str(expr.args[0].name_hint)
        if kernel not in programs:
            programs[kernel] = Program(mod[expr.args[0]], arch)
        given = [_argument(arg, values) for arg in expr.args[1].fields]
        made = programs[kernel].run(*given)
        if calls is not None and KERNEL_LAYER in mod[expr.args[0]].attrs:
            calls.append(KernelCall(kernel, (*given, *made)))
        return made[0] if len(made) == 1 else made
    if name in ("relax.reshape", "relax.memory.view"):
        shape = [int(dim) for dim in expr.ty.shape.values]
        return _argument(expr.args[0], values).reshape(shape)
    raise NotImplementedError(name)


def _argument(expr: Any, values: Values) -> Any:
    if is_const(expr):
        return value_of(expr)
    if isinstance(expr, relax.Tuple):
        return [_argument(field, values) for field in expr.fields]
    if isinstance(expr, relax.TupleGetItem):
        return _argument(expr.tuple_value, values)[expr.index]
    return values[expr]

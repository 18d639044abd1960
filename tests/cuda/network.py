# SPDX-License-Identifier: Apache-2.0
"""Run a whole network that was compiled for CUDA, kernel after kernel, on the emulator."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.cuda.emulator import Program
from xnortvm import api, pipeline
from xnortvm._tvm import IRModule, ir, relax
from xnortvm.graph.dataflow import is_const, op_name, value_of
from xnortvm.target import resolve

Values = dict[Any, Any]


def kernels_of(model: Any, example: Any, target: str) -> IRModule:
    """Return the scheduled module that `xnortvm.compile` would build."""
    graph = api.lower(model, example_inputs=example)
    return pipeline.run(graph, pipeline.kernel_phases(resolve(target)))


def emulate(mod: IRModule, inputs: list[np.ndarray], arch: str) -> list[np.ndarray]:
    """Return the outputs of ``main``, each kernel run from the CUDA source that TVM generates."""
    programs: dict[str, Program] = {}
    main = mod["main"]
    values: Values = dict(zip(main.params, inputs, strict=True))
    for block in main.body.blocks:
        for binding in block.bindings:
            values[binding.var] = _value(mod, binding.value, values, programs, arch)
    result = _argument(main.body.body, values)
    return result if isinstance(result, list) else [result]


def _value(
    mod: IRModule, expr: Any, values: Values, programs: dict[str, Program], arch: str
) -> Any:
    if not isinstance(expr, ir.Call):
        return _argument(expr, values)
    name = op_name(expr)
    if name == "relax.call_tir":
        kernel = str(expr.args[0].name_hint)
        if kernel not in programs:
            programs[kernel] = Program(mod[expr.args[0]], arch)
        made = programs[kernel].run(*(_argument(arg, values) for arg in expr.args[1].fields))
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

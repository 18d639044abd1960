# SPDX-License-Identifier: Apache-2.0
"""Give kernels their weights in the order that they ask for (`weights.PREPARED`)."""

from __future__ import annotations

from typing import Any

from xnortvm._tvm import IRModule, ir, relax, tirx, typed_global_var
from xnortvm.errors import CompileError
from xnortvm.graph.dataflow import Builder, rebuild
from xnortvm.ops.registry import constant_value
from xnortvm.schedules.cuda.weights import PREPARED, WeightLayout, prepare, without_bits


def place_weights(mod: IRModule) -> IRModule:
    """Return the module with the constants of such kernels laid out again.

    Raises
    ------
    CompileError
        When the weights of a kernel are not a constant.
    """
    layouts: dict[Any, WeightLayout] = {}
    renamed: dict[Any, Any] = {}
    functions = {}
    for gvar, func in mod.functions.items():
        text = (func.attrs or {}).get(PREPARED) if isinstance(func, tirx.PrimFunc) else None
        if text is not None:
            layouts[gvar] = WeightLayout.from_json(str(text))
            renamed[gvar] = typed_global_var(str(gvar.name_hint), func)
        functions[renamed.get(gvar, gvar)] = func
    if not layouts:
        return mod

    def visit(_: Builder, __: Any, call: Any) -> Any:
        gvar = call.args[0] if call.args else None
        layout = layouts.get(gvar) if isinstance(gvar, ir.GlobalVar) else None
        if gvar is None or layout is None:
            return None
        args = list(call.args[1].fields)
        weights = constant_value(args[layout.param])
        if weights is None:
            raise CompileError(
                f"the weights of {gvar.name_hint} are not constant, so they cannot be laid out for "
                "tensor cores"
            )
        if layout.base >= 0:
            base = constant_value(args[layout.base])
            assert base is not None
            args[layout.base] = relax.const(without_bits(base, weights))
        arrays = prepare(weights, layout)
        args[layout.param : layout.param + 1] = [relax.const(array) for array in arrays]
        operands = [renamed[gvar], relax.Tuple(args), *call.args[2:]]
        return relax.Call(call.op, operands, call.attrs, call.ty_args)

    return rebuild(ir.IRModule(functions, attrs=mod.attrs), visit)

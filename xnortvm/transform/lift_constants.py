# SPDX-License-Identifier: Apache-2.0
"""Constants inside kernels → arguments of kernels, which is where ``FuseTIR`` wants them."""

from __future__ import annotations

from typing import Any

from xnortvm._tvm import BlockBuilder, IRModule, ir, relax, typed_global_var
from xnortvm.graph.dataflow import Builder, Graph, is_const, rebuild


def lift_constants(mod: IRModule) -> IRModule:
    """Give every ``Primitive`` function its constants as parameters, and pass them at the call.

    Operators have been legalised by now: those that fold a constant into their code have done so,
    and those that rearrange one (blocked weights) have made the new one.
    """
    moved: dict[Any, tuple[Any, list[Any]]] = {}
    functions = {gvar: mod[gvar] for gvar in mod.get_global_vars()}
    for gvar, func in list(functions.items()):
        if isinstance(func, relax.Function) and func.attrs and func.attrs.get("Primitive"):
            lifted, constants = _lift(func)
            new = typed_global_var(str(gvar.name_hint), lifted)
            moved[gvar] = new, constants
            del functions[gvar]
            functions[new] = lifted

    def visit(_: Builder, __: Any, call: Any) -> Any:
        if not isinstance(call.op, ir.GlobalVar) or call.op not in moved:
            return None
        new, constants = moved[call.op]
        return relax.Call(new, [*call.args, *constants])

    return rebuild(IRModule(functions, attrs=mod.attrs), visit)


def _lift(func: Any) -> tuple[Any, list[Any]]:
    graph = Graph(func)
    builder = Builder()
    builder.block = BlockBuilder()
    params = [relax.Var(str(param.name), param.ty) for param in graph.params]
    builder.env = dict(zip(graph.params, params, strict=True))
    found: list[Any] = []

    def lift(expr: Any) -> Any:
        if is_const(expr):
            var = relax.Var(f"const_{len(found)}", expr.ty)
            found.append((var, expr))
            return var
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([lift(field) for field in expr.fields])
        return expr

    bindings = []
    for var, expr in graph.bindings:
        if isinstance(expr, ir.Call):
            args = [lift(arg) for arg in expr.args]
            expr = ir.Call(expr.op, args, expr.attrs, expr.ty_args, expr.span)
        bindings.append((var, expr))
    params += [var for var, _ in found]
    with builder.block.function("kernel", params, attrs=dict(func.attrs.items()), private=True):
        with builder.block.dataflow():
            for var, expr in bindings:
                builder.env[var] = builder.emit(builder.new(expr), str(var.name))
            output = builder.block.emit_output(builder.new(graph.result))
        builder.block.emit_func_output(output)
    return builder.block.get()["kernel"], [value for _, value in found]

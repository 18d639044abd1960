# SPDX-License-Identifier: Apache-2.0
"""Relax kernels → one PrimFunc each, equal ones shared."""

from __future__ import annotations

from typing import Any

from xnortvm._tvm import IRModule, ir, relax, tvm, tvm_ffi
from xnortvm.graph.dataflow import Builder, rebuild
from xnortvm.schedules.decisions import DECIDED_KEY, DECISIONS, ORIGIN
from xnortvm.transform.group import KERNEL_LAYER, KERNEL_OP


def fuse_kernels(mod: IRModule) -> IRModule:
    """Merge the operators of every ``Primitive`` function into one PrimFunc.

    Layers of the same shape have the same code, since their weights are arguments: LLVM compiles
    it once. A kernel keeps its operator, the names of its layers and its decisions as attributes.
    """
    marks = {
        str(gvar.name_hint): (str(func.attrs[KERNEL_OP]), str(func.attrs[KERNEL_LAYER]))
        for gvar, func in _functions(mod).items()
        if isinstance(func, relax.Function) and func.attrs and KERNEL_OP in func.attrs
    }
    decided = {
        str(gvar.name_hint): {name: func.attrs[name] for name in (DECISIONS, ORIGIN, DECIDED_KEY)}
        for gvar, func in _functions(mod).items()
        if func.attrs and DECISIONS in func.attrs
    }
    mod = relax.transform.FuseTIR()(mod)
    mod, same = _share(mod)
    for gvar, func in _functions(mod).items():
        names = [str(gvar.name_hint), *same.get(str(gvar.name_hint), [])]
        if names[0] in marks:
            layers = [marks[name][1] for name in names]
            func = func.with_attr(KERNEL_OP, marks[names[0]][0]).with_attr(KERNEL_LAYER, layers)
            for name, value in decided.get(names[0], {}).items():
                func = func.with_attr(name, value)
            mod.update_func(gvar, func)
    return mod


def _share(mod: IRModule) -> tuple[IRModule, dict[str, list[str]]]:
    """Let calls of structurally equal PrimFuncs call the first of them."""
    first: dict[int, list[Any]] = {}
    instead: dict[Any, Any] = {}
    same: dict[str, list[str]] = {}
    functions = _functions(mod)
    order = _call_order(mod)
    for gvar in sorted(functions, key=lambda g: order.get(g, len(order))):
        func = functions[gvar]
        if not isinstance(func, tvm.tirx.PrimFunc):
            continue
        key = tvm_ffi.structural_hash(func)
        equal = next(
            (g for g in first.get(key, []) if tvm_ffi.structural_equal(functions[g], func)), None
        )
        if equal is None:
            first.setdefault(key, []).append(gvar)
        else:
            instead[gvar] = equal
            same.setdefault(str(equal.name_hint), []).append(str(gvar.name_hint))

    def visit(_: Builder, __: Any, call: Any) -> Any:
        if not call.args or call.args[0] not in instead:
            return None
        args = [instead[call.args[0]], *call.args[1:]]
        return ir.Call(call.op, args, call.attrs, call.ty_args, call.span)

    return rebuild(mod, visit), same


def _call_order(mod: IRModule) -> dict[Any, int]:
    order: dict[Any, int] = {}
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, ir.Call) and binding.value.args:
                callee = binding.value.args[0]
                if isinstance(callee, ir.GlobalVar):
                    order.setdefault(callee, len(order))
    return order


def _functions(mod: IRModule) -> dict[Any, Any]:
    return {gvar: mod[gvar] for gvar in mod.get_global_vars()}

# SPDX-License-Identifier: Apache-2.0
"""``move(a·sign(x) + b)`` → ``a·move(sign(x)) + b``, so that layers see the scale last.

Transposes, reshapes, slices and (for a > 0) max-pools choose among the values of a tensor; a scale
and an offset that are the same for all values may as well be applied behind them.
"""

from __future__ import annotations

from typing import Any

from xnortvm._tvm import IRModule, ir, relax
from xnortvm.graph.dataflow import Builder, op_name, rebuild, value_of

_MOVES = frozenset(
    {"relax.nn.max_pool2d", "relax.reshape", "relax.permute_dims", "relax.strided_slice"}
)
_SCALES = ("relax.multiply", "relax.add")


def sink_sign_scales(mod: IRModule) -> IRModule:
    """Apply scalar scales and offsets of signs after the operators that only move values."""
    return rebuild(mod, _visit)


def _visit(builder: Builder, var: Any, call: Any) -> Any:
    if op_name(call) not in _MOVES:
        return None
    chain: list[tuple[str, Any]] = []
    source = call.args[0]
    while (step := _scalar_step(builder.producer(source))) is not None:
        name, constant, source = step
        negative = name == "relax.multiply" and float(value_of(constant)) <= 0  # type: ignore[arg-type]
        if negative and op_name(call) == "relax.nn.max_pool2d":
            return None
        chain.append((name, constant))
    if not chain or op_name(builder.producer(source)) not in _MOVES | {"relax.xnortvm.sign"}:
        return None
    args = [source, *call.args[1:]]
    value = builder.emit(ir.Call(call.op, args, call.attrs, call.ty_args), str(var.name), call.span)
    for name, constant in reversed(chain):
        value = builder.emit(getattr(relax.op, name.removeprefix("relax."))(value, constant))
    return value


def _scalar_step(call: Any) -> tuple[str, Any, Any] | None:
    """(operator, constant, variable) of a product or sum with one number."""
    if op_name(call) not in _SCALES:
        return None
    for constant, source in (call.args, call.args[::-1]):
        value = value_of(constant)
        if value is not None and value.ndim == 0 and isinstance(source, relax.Var):
            return op_name(call), constant, source
    return None

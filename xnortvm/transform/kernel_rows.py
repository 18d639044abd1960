# SPDX-License-Identifier: Apache-2.0
"""What the kernels of a scheduled module say about the layers: the last columns of the report."""

from __future__ import annotations

from typing import Any

from xnortvm._tvm import IRModule, ir, relax, relax_transform, tirx, tvm
from xnortvm.report import Report
from xnortvm.transform.group import KERNEL_LAYER

#: Attribute that `ApplySchedules` leaves on a kernel: the rule that scheduled it.
SCHEDULE = "xnortvm.schedule"
#: The same: "rule", or where the decisions come from otherwise, such as "tuned".
DECIDED_BY = "xnortvm.decided_by"


def add_kernels(report: Report, mod: IRModule) -> None:
    """Fill in kernel, schedule and output bits of every row."""
    rows = {row.name: row for row in report.layers}
    for gvar in mod.get_global_vars():
        func = mod[gvar]
        if not isinstance(func, tvm.tirx.PrimFunc) or KERNEL_LAYER not in (func.attrs or {}):
            continue
        for layer in func.attrs[KERNEL_LAYER]:
            row = rows.get(str(layer))
            if row is not None and not row.kernel:
                row.kernel = str(gvar.name_hint)
                row.schedule = str(func.attrs.get(SCHEDULE, "default"))
                row.decided_by = str(func.attrs.get(DECIDED_BY, "rule"))
    for call in _kernel_calls(mod):
        layers = mod[call.args[0]].attrs.get(KERNEL_LAYER, [])
        bits = _bits(call.ty_args)
        for layer in layers:
            row = rows.get(str(layer))
            if row is not None:
                row.bits_out = bits


def _kernel_calls(mod: IRModule) -> list[Any]:
    return [
        binding.value
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, ir.Call)
        and binding.value.args
        and isinstance(binding.value.args[0], ir.GlobalVar)
    ]


def _bits(types: Any) -> str:
    """ "32" for float outputs, "16" for those in fp16, "1" for packed bits, "32+1" for both."""
    fields = [f for ty in types for f in (ty.fields if isinstance(ty, relax.TupleType) else [ty])]
    packed = [str(f.dtype.dtype if hasattr(f.dtype, "dtype") else f.dtype) for f in fields]
    kinds = {_BITS.get(dtype, 32) for dtype in packed}
    return "+".join(map(str, sorted(kinds, reverse=True)))


_BITS = {"uint32": 1, "float16": 16}


def planned_activations(mod: IRModule) -> int:
    """Bytes of the storage that a run of ``main`` uses for activations."""
    planned = tvm.ir.transform.Sequential(
        [
            relax_transform.RewriteDataflowReshape(),
            relax_transform.ToNonDataflow(),
            relax_transform.CallTIRRewrite(),
            relax_transform.StaticPlanBlockMemory(),
        ]
    )(mod)
    total = 0
    for block in planned["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if not isinstance(value, ir.Call) or not isinstance(value.op, ir.Op):
                continue
            if str(value.op.name) == "relax.memory.alloc_storage":
                (size,) = value.args[0].values
                total += int(size) if isinstance(size, tirx.IntImm) else 0
    return total

# SPDX-License-Identifier: Apache-2.0
"""Registration of the packed operators with Relax and of their helpers with TIR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm_ffi

from xnortvm._tvm import TensorType, ir, relax, tirx

_register_op = tvm_ffi.get_global_func("ir.RegisterOp")
_add_argument = tvm_ffi.get_global_func("ir.OpAddArgument")
_set_num_inputs = tvm_ffi.get_global_func("ir.OpSetNumInputs")


def register_relax_op(
    name: str, arguments: Sequence[str], infer_type: Callable[[Any], TensorType]
) -> None:
    """Register a pure Relax operator whose arguments are tensors of static shape.

    Parameters
    ----------
    name : str
        ``relax.xnortvm.<operator>``.
    arguments : sequence of str
        Names of the tensor arguments.
    infer_type : callable
        From a call to the type of its result.
    """
    _register_op(name, "")
    op = ir.Op.get(name)
    for argument in arguments:
        _add_argument(op, argument, "Tensor", "")
    _set_num_inputs(op, len(arguments))
    ir.register_op_attr(name, "FInferType", lambda call, _context: infer_type(call))
    ir.register_op_attr(name, "FPurity", True)


def register_tir_op(name: str, lower: Callable[[Any], Any], *, vectorizable: bool) -> None:
    """Register a pure TIR function and how LLVM targets lower it (after vectorisation)."""
    _register_op(name, "")
    ir.register_op_attr(name, "TCallEffectKind", tirx.CallEffectKind.Pure.value)
    ir.register_op_attr(name, "TScriptPrinterName", name.removeprefix("tirx."))
    if vectorizable:
        ir.register_op_attr(name, "TVectorizable", True)
    tirx.register_intrin_lowering(name, target="llvm", f=lower, level=99)


def make_call(name: str, arguments: Sequence[Any], **attributes: Any) -> Any:
    """Return a Relax call of a registered operator with a dictionary of attributes."""
    return relax.Call(ir.Op.get(name), list(arguments), ir.make_node("ir.DictAttrs", **attributes))


def static_shape(expr: Any) -> tuple[int, ...]:
    """Return the shape of a tensor expression.

    Raises
    ------
    ValueError
        When a dimension is not a constant.
    """
    dims: list[Any] = list(expr.ty.shape.values) if expr.ty.shape is not None else [None]
    if any(not isinstance(dim, tirx.IntImm) for dim in dims):
        raise ValueError(f"packed operators need static shapes, got {expr.ty}")
    return tuple(int(dim) for dim in dims)


def constant_value(expr: Any) -> Any:
    """Return the NumPy value of a constant tensor, None for anything else."""
    if isinstance(expr, ir.GenericConst) and isinstance(expr.ty, TensorType):
        return expr.value.numpy()
    return None

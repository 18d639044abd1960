# SPDX-License-Identifier: Apache-2.0
"""`fold_constants`: Relax calls on constants become constants, without a kernel for each.

TVM's own `FoldConstant` builds and runs a kernel per call, seconds for a small network. Here NumPy
computes what it knows (`numpy_ops` and the elementwise operators of `xnortvm.graph.pointwise`);
only what is left goes to TVM.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xnortvm._tvm import IRModule, relax, relax_transform, tirx
from xnortvm.frontend.numpy_ops import NUMPY_OPS
from xnortvm.graph.dataflow import Builder, const, is_const, op_name, rebuild, shape_of, value_of
from xnortvm.graph.pointwise import POINTWISE

_LARGE = 1 << 24
"""A result of this many bytes, larger than its inputs, stays a call (broadcasts, fills)."""

_KEPT = frozenset({"relax.null_value", "relax.shape_of", "relax.call_pure_packed"})


def fold_constants(mod: IRModule) -> IRModule:
    """Evaluate every call of ``main`` whose arguments are constants.

    Parameters
    ----------
    mod : IRModule
        With a dataflow function ``main``.

    Returns
    -------
    IRModule
        The calls that stay keep their layer names.
    """
    leftovers: list[Any] = []

    def visit(builder: Builder, var: Any, call: Any) -> Any:
        operands = _operands(call)
        if operands is None:
            return None
        value = _evaluated(call, operands)
        if value is None:
            if op_name(call) not in _KEPT and not _grows(call, operands):
                leftovers.append(var)
            return None
        if isinstance(value, list):
            return relax.Tuple([const(item) for item in value])
        return const(value)

    mod = rebuild(mod, visit)
    return relax_transform.FoldConstant()(mod) if leftovers else mod


def _operands(call: Any) -> list[Any] | None:
    """Return the arguments as arrays, numbers and tuples; None when one is not a constant."""
    operands = [_operand(arg) for arg in call.args]
    return None if any(operand is None for operand in operands) else operands


def _operand(arg: Any) -> Any:
    if is_const(arg):
        return value_of(arg)
    if isinstance(arg, tirx.IntImm | tirx.FloatImm):
        return arg.value
    if isinstance(arg, relax.ShapeExpr):
        arg = relax.Tuple(list(arg.values))
    if isinstance(arg, relax.Tuple):
        fields = [_operand(field) for field in arg.fields]
        return None if any(field is None for field in fields) else tuple(fields)
    return None


def _evaluated(call: Any, operands: list[Any]) -> Any:
    """Compute a call; None when NumPy does not know how or the result would be too large."""
    name = op_name(call)
    if name in POINTWISE:
        rule = POINTWISE[name].fn
    elif name in NUMPY_OPS:
        rule = NUMPY_OPS[name]
    else:
        return None
    if _grows(call, operands):
        return None
    with np.errstate(all="ignore"):
        value = rule(call.attrs, *operands)
    return None if value is None else _typed(call, value)


def _typed(call: Any, value: Any) -> Any:
    """Give the result the type that the call has; None when its shape differs."""
    if isinstance(value, list):
        return [np.ascontiguousarray(item) for item in value]
    shape = shape_of(call)
    value = np.asarray(value)
    if shape is not None and shape != value.shape:
        return None
    return np.ascontiguousarray(value.astype(str(call.ty.dtype.dtype), copy=False)).reshape(
        value.shape
    )


def _grows(call: Any, operands: list[Any]) -> bool:
    shape = shape_of(call) if isinstance(call.ty, relax.TensorType) else None
    if shape is None:
        return isinstance(call.ty, relax.TensorType)
    size = math.prod(shape) * 4
    return size > _LARGE and size > sum(getattr(operand, "nbytes", 0) for operand in operands)

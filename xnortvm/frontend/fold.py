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
from xnortvm.frontend.constant import constant
from xnortvm.frontend.numpy_ops import NUMPY_OPS
from xnortvm.graph.dataflow import Builder, dtype_of, is_const, op_name, rebuild, shape_of, value_of
from xnortvm.graph.pointwise import POINTWISE

_LARGE = 1 << 24
"""A result of this many bytes, larger than its inputs, stays a call (broadcasts, fills)."""

_KEPT = frozenset(
    {"relax.null_value", "relax.shape_of", "relax.call_pure_packed", "relax.call_dps_packed"}
)


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
        value = _evaluated(call, operands, var)
        if value is None:
            if op_name(call) not in _KEPT and not _grows(var, operands):
                leftovers.append(var)
            return None
        if isinstance(value, list):
            return relax.Tuple([constant(item) for item in value])
        return constant(value)

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


def _evaluated(call: Any, operands: list[Any], var: Any) -> Any:
    """Compute a call; None when NumPy does not know how or the result would be too large."""
    name = op_name(call)
    if name in POINTWISE:
        rule = POINTWISE[name].fn
    elif name in NUMPY_OPS:
        rule = NUMPY_OPS[name]
    else:
        return None
    if _grows(var, operands):
        return None
    with np.errstate(all="ignore"):
        value = rule(call.attrs, *operands)
    return None if value is None else _typed(var, value)


def _typed(var: Any, value: Any) -> Any:
    """Give the result the dtype that the variable has; None when its shape differs."""
    if isinstance(value, list):
        return value
    shape = shape_of(var)
    value = np.asarray(value)
    if shape is not None and shape != value.shape:
        return None
    return value.astype(dtype_of(var), copy=False)


def _grows(var: Any, operands: list[Any]) -> bool:
    """Tell whether a result is large and larger than what it is made from."""
    if not isinstance(var.ty, relax.TensorType):
        return False
    shape = shape_of(var)
    size = math.prod(shape) * 4 if shape is not None else math.inf
    return size > _LARGE and size > sum(getattr(operand, "nbytes", 0) for operand in operands)

# SPDX-License-Identifier: Apache-2.0
"""Limits of what is computed from an accumulator → `xnortvm.ops.clamp`, which needs no NaN.

Between an accumulator and a ReLU or hard tanh there are only constants, so what is clamped is a
function of one integer. Where it is monotone and finite at both ends of the integer's range, it is
no NaN anywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xnortvm import ops
from xnortvm._tvm import IRModule
from xnortvm.graph.accumulators import accumulator_bound
from xnortvm.graph.dataflow import Builder, Values, dtype_of, op_name, rebuild
from xnortvm.graph.integer_function import IntegerFunction
from xnortvm.graph.pointwise import scalar_operand


def clamp_integers(mod: IRModule) -> IRModule:
    """Return the module with `clamp` for every clip and ReLU of a function of an accumulator."""
    return rebuild(mod, _visit)


def _visit(builder: Builder, _: Any, call: Any) -> Any:
    limits = _limits(call)
    if limits is None or dtype_of(call.args[0]) != "float32":
        return None
    low, high = limits
    if not low <= 0 < high or not _is_finite(builder, call.args[0]):
        return None
    return ops.clamp(call.args[0], low, high)


def _limits(call: Any) -> tuple[float, float] | None:
    fixed = {"relax.nn.relu": (0.0, np.inf), "relax.nn.relu6": (0.0, 6.0)}
    if op_name(call) != "relax.clip":
        return fixed.get(op_name(call))
    low, high = (scalar_operand(arg) for arg in call.args[1:])
    return None if low is None or high is None else (float(low), float(high))


def _is_finite(values: Values, var: Any) -> bool:
    """Return whether a value is a finite function of one accumulator."""
    function = IntegerFunction.of(values, var)
    if function is None:
        return False
    bound, trend = accumulator_bound(values, function.source), function.trend()
    if bound is None or trend is None or np.isnan(trend).any():
        return False
    return all(
        bool(np.isfinite(function(np.full(function.shape, n))).all()) for n in (-bound, 0, bound)
    )

# SPDX-License-Identifier: Apache-2.0
"""``relax.xnortvm.clamp``: the values between two limits, of numbers that are no NaN, on AArch64.

Taken as integers, the bits of positive floats grow with them, and those of negative ones lie above
as unsigned numbers, where they grow as the floats fall. So ``smin`` with the bits of the upper
limit cuts off what is above, and ``umin`` with those of a negative lower limit what is below. Both
run on either pipe of a Cortex-A72 with half the operations of ``fmin`` and ``fmax``; a NaN would
become a number, which is why the operator is for values that cannot be one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xnortvm._tvm import ir, te, tirx
from xnortvm.ops.intrinsics import _lanes, _splat
from xnortvm.ops.registry import make_call, register_relax_op, register_tir_op

NAME = "relax.xnortvm.clamp"
_TIR = "tirx.xnortvm_clamp"

register_relax_op(NAME, ["x"], lambda call: call.args[0].ty)


def clamp(x: Any, low: float, high: float) -> Any:
    """Return a call that clamps numbers.

    Parameters
    ----------
    x : relax.Expr
        Any shape, float32, without NaN.
    low, high : float
        low ≤ 0 < high; infinite where there is no limit.

    Raises
    ------
    ValueError
        For other limits, whose bits are not ordered as is needed.
    """
    if not low <= 0 < high:
        raise ValueError(f"limits of a clamp are on both sides of 0, not {low} and {high}")
    return make_call(NAME, [x], low=float(low), high=float(high))


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def _number(value: Any) -> float:
    return float((value.value if isinstance(value, tirx.Broadcast) else value).value)


def _lower(call: Any) -> Any:
    x, low, high = call.args[0], _number(call.args[1]), _number(call.args[2])
    lanes = _lanes(x)
    many = "" if lanes == 1 else f"x{lanes}"

    def of(dtype: str, value: int) -> Any:
        return _splat(value, dtype, lanes)

    bits = tirx.reinterpret(f"int32{many}", x)
    if high != np.inf:
        bits = tirx.Min(bits, of("int32", _bits(high)))
    if low == 0:
        bits = tirx.Max(bits, of("int32", 0))
    elif low != -np.inf:
        unsigned = tirx.reinterpret(f"uint32{many}", bits)
        bits = tirx.Min(unsigned, of("uint32", _bits(low)))
    return tirx.reinterpret(f"float32{many}", bits)


register_tir_op(_TIR, _lower, vectorizable=True)


def clamp_te(x: Any, *, low: float, high: float) -> Any:
    """Return the tensor expression."""
    limits = [tirx.FloatImm("float32", limit) for limit in (low, high)]
    return te.compute(
        x.shape,
        lambda *i: tirx.call_intrin("float32", ir.Op.get(_TIR), x(*i), *limits),
        name="clamp",
    )


def legalize(bb: Any, call: Any) -> Any:
    """Lower a call of `clamp` to TIR."""
    low, high = float(call.attrs["low"]), float(call.attrs["high"])
    return bb.call_te(
        lambda x: clamp_te(x, low=low, high=high), call.args[0], primfunc_name_hint="xnortvm_clamp"
    )

# SPDX-License-Identifier: Apache-2.0
"""``relax.xnortvm.sign``: the one spelling of every sign idiom."""

from __future__ import annotations

from typing import Any

from xnortvm._tvm import te, tirx
from xnortvm.ops.registry import make_call, register_relax_op

NAME = "relax.xnortvm.sign"
ZEROS = ("+1", "-1", "0")

register_relax_op(NAME, ["x"], lambda call: call.args[0].ty)


def sign(x: Any, *, zero: str = "+1") -> Any:
    """Return a call that maps floats to ±1.

    Parameters
    ----------
    x : relax.Expr
        Any shape, float.
    zero : {"+1", "-1", "0"}
        What 0 becomes.
    """
    if zero not in ZEROS:
        raise ValueError(f"zero is one of {', '.join(ZEROS)}, not {zero!r}")
    return make_call(NAME, [x], zero=zero)


def sign_te(x: Any, *, zero: str) -> Any:
    """Return the tensor expression of `sign`; a NaN counts as positive, as in `bitpack`."""
    dtype = str(x.dtype)
    nought, plus, minus = (tirx.const(value, dtype) for value in (0, 1, -1))

    def element(*index: Any) -> Any:
        value = x(*index)
        if zero == "-1":
            return tirx.Select(value <= nought, minus, plus)
        positive = tirx.Select(value == nought, nought, plus) if zero == "0" else plus
        return tirx.Select(value < nought, minus, positive)

    return te.compute(x.shape, element, name="sign", attrs={"xnortvm.op": "sign"})


def legalize(bb: Any, call: Any) -> Any:
    """Lower a call of `sign` to TIR."""
    zero = str(call.attrs["zero"])
    return bb.call_te(
        lambda x: sign_te(x, zero=zero), call.args[0], primfunc_name_hint="xnortvm_sign"
    )

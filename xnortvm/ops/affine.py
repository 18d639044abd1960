# SPDX-License-Identifier: Apache-2.0
"""``relax.xnortvm.affine``: x·scale + shift with one rounding, what a folded batch norm is."""

from __future__ import annotations

from typing import Any

from xnortvm._tvm import te, topi
from xnortvm.ops.registry import make_call, register_relax_op

NAME = "relax.xnortvm.affine"

register_relax_op(NAME, ["x", "scale", "shift"], lambda call: call.args[0].ty)


def affine(x: Any, scale: Any, shift: Any) -> Any:
    """Return a call that computes x·scale + shift.

    Parameters
    ----------
    x : relax.Expr
        Any shape, float32.
    scale, shift : relax.Expr
        Broadcastable to x.
    """
    return make_call(NAME, [x, scale, shift])


def affine_te(x: Any, scale: Any, shift: Any) -> Any:
    """Return the tensor expression; LLVM contracts product and sum to a fused multiply-add."""
    result: te.Tensor = topi.add(topi.multiply(x, scale), shift)
    return result


def legalize(bb: Any, call: Any) -> Any:
    """Lower a call of `affine` to TIR."""
    return bb.call_te(affine_te, *call.args, primfunc_name_hint="xnortvm_affine")

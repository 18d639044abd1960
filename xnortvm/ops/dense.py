# SPDX-License-Identifier: Apache-2.0
"""``relax.matmul`` in floats by a constant matrix, in the packed kernels' form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xnortvm._tvm import ir, relax, te
from xnortvm.ops.channels import lane_of
from xnortvm.ops.conv2d import float_weights
from xnortvm.ops.problem import Problem, sum_te
from xnortvm.ops.registry import constant_value

if TYPE_CHECKING:
    from xnortvm.schedules.isa import Isa

NAME = "relax.matmul"


def dense_te(x: Any, w: Any, *, outputs: int, isa: Isa) -> Any:
    """Return the tensor expression.

    Parameters
    ----------
    x : te.Tensor
        (..., I) float.
    w : te.Tensor
        (O / lanes, I, lanes), made by `float_weights`.
    """
    lead, inputs = x.shape[:-1], int(x.shape[-1])
    if isa.popcount == "plain" and len(lead) == 1:
        problem = Problem(int(lead[0]), 1, 1, inputs, outputs, rank=2, packed=False)
        return sum_te(x, w, problem, "dense")
    k = te.reduce_axis((0, inputs), "k")

    if isa.popcount == "plain":
        return te.compute(
            (*lead, outputs),
            lambda *index: te.sum(x(*index[:-1], k) * w[index[-1], k], axis=[k]),
            name="dense",
            attrs={"xnortvm.op": "dense"},
        )

    def product(*index: Any) -> Any:
        block, lane = lane_of(index[-1], isa.lanes)
        return te.sum(x(*index[:-1], k) * w[block, k, lane], axis=[k])

    channels = int(w.shape[0]) * isa.lanes
    result = te.compute((*lead, channels), product, name="dense", attrs={"xnortvm.op": "dense"})
    if channels == outputs:
        return result
    return te.compute(
        (*lead, outputs),
        lambda *index: result(*index),
        name="real_part",
        attrs={"xnortvm.op": "accumulator"},
    )


def legalize(bb: Any, call: Any, isa: Isa) -> Any:
    """Lower a product with a constant matrix to TIR; TVM's own rule does the others."""
    weight = constant_value(call.args[1])
    dims = call.args[0].ty.shape
    ours = (
        weight is not None
        and weight.ndim == 2
        and dims is not None
        and len(dims.values) >= 2
        and {str(call.ty.dtype), str(call.args[0].ty.dtype)} == {"float32"}
    )
    if not ours:
        return ir.Op.get(NAME).get_attr("FLegalize")(bb, call)
    by_output = np.ascontiguousarray(weight.T)
    return bb.call_te(
        lambda x, w: dense_te(x, w, outputs=by_output.shape[0], isa=isa),
        call.args[0],
        relax.const(float_weights(by_output, isa)),
        primfunc_name_hint="xnortvm_dense",
    )

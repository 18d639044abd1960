# SPDX-License-Identifier: Apache-2.0
"""Batch norm with fixed statistics → one scale and one shift per channel."""

from __future__ import annotations

from typing import Any

import numpy as np

from xnortvm import ops
from xnortvm._tvm import IRModule, relax
from xnortvm.graph.dataflow import Builder, const, op_name, rebuild, value_of
from xnortvm.graph.pointwise import fused_multiply_add


def batch_norm_to_affine(mod: IRModule) -> IRModule:
    """Replace ``nn.batch_norm`` by ``xnortvm.affine``: y = x·scale + shift.

    scale = w / √(var + ε) and shift = b - mean·scale are computed in float32, with one fused
    multiply-add, because that is what PyTorch does at run time: thresholds that are derived from
    them must flip at the same integer.
    """
    return rebuild(mod, _visit)


def _visit(builder: Builder, var: Any, call: Any) -> Any:
    if op_name(call) != "relax.nn.batch_norm" or bool(call.attrs.training):
        return None
    weight, bias, mean, variance = (value_of(arg) for arg in call.args[1:])
    if weight is None or bias is None or mean is None or variance is None:
        return None
    one = np.float32(1)
    inverse = one / np.sqrt(variance.astype(np.float32) + np.float32(call.attrs.epsilon))
    scale = (weight * inverse if call.attrs.scale else inverse).astype(np.float32)
    shift = fused_multiply_add(-mean, scale, bias if call.attrs.center else np.zeros_like(mean))
    x = call.args[0]
    shape = [1] * x.ty.ndim
    shape[int(call.attrs.axis)] = scale.size
    y = builder.emit(
        ops.affine(x, const(scale.reshape(shape)), const(shift.reshape(shape))),
        str(var.name),
        call.span,
    )
    return relax.Tuple([y, call.args[3], call.args[4]])

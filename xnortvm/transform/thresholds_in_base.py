# SPDX-License-Identifier: Apache-2.0
"""Thresholds of a convolution's accumulator → constants that it adds anyway.

    threshold_pack(bconv2d(a, w, base), T, flip)   →   bitpack(bconv2d(a, w', base'))

The bit is ``(acc ^ flip) < T`` for ``acc = base − 2·count``. Where flip is −1, a channel's weights
are inverted: of the K bits of a window then K − count differ, so

    acc ^ −1 = −acc − 1 = (2·K − 1 − base) − 2·count'

and what is left is a number to compare with T, which is subtracted from the base. The bit is the
sign of the new accumulator: nothing of the threshold remains for each output. Exact: all integers.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from xnortvm import ops
from xnortvm._tvm import IRModule, ir
from xnortvm.graph.dataflow import Builder, Graph, const, op_name, rebuild, shape_of, value_of
from xnortvm.graph.pointwise import Array
from xnortvm.ops.layout import is_masked, minus_one_words


def thresholds_in_base(mod: IRModule) -> IRModule:
    """Return the module without the thresholds of convolutions that nothing else reads."""
    graph = Graph(mod["main"])

    def visit(builder: Builder, var: Any, call: Any) -> Any:
        if op_name(call) != "relax.xnortvm.threshold_pack":
            return None
        read = graph.value[var].args[0]
        conv = builder.producer(call.args[0])
        if op_name(conv) != "relax.xnortvm.bconv2d" or len(graph.users[read]) != 1:
            return None
        constants = _constants(conv, *call.args[1:])
        if constants is None:
            return None
        args = [conv.args[0], *map(const, constants)]
        moved = builder.emit(ir.Call(conv.op, args, conv.attrs, conv.ty_args, conv.span))
        return ops.bitpack(moved, groups=int(call.attrs["groups"]))

    return rebuild(mod, visit)


def _constants(conv: Any, threshold: Any, flip: Any) -> tuple[Array, Array] | None:
    """Return the new weights and base; None where the thresholds depend on the position."""
    weights, base, limit, flips = map(value_of, (*conv.args[1:], threshold, flip))
    assert limit is not None
    assert flips is not None
    outputs = shape_of(conv)[-1]  # type: ignore[index]
    channels = int(conv.attrs["channels"]) // int(conv.attrs["groups"])
    if weights is None or base is None or is_masked(weights.shape[-1], channels):
        return None
    if any(each.shape[:-1] != (1,) * (each.ndim - 1) for each in (limit, flips)):
        return None
    limit, falls = (np.broadcast_to(x.reshape(-1), outputs) for x in (limit, flips == -1))
    ones = np.array(minus_one_words(channels), np.uint32)
    inverted = np.where(falls[:, None, None, None], weights ^ ones, weights)
    total = prod(weights.shape[1:3]) * channels
    turned = np.where(falls, 2 * total - 1 - base, base)
    return inverted, (turned - limit).astype(np.int32)

# SPDX-License-Identifier: Apache-2.0
"""PReLU and leaky ReLU written as ``where(x > 0, x, slope * x)`` → one operator."""

from __future__ import annotations

from typing import Any

import numpy as np

from xnortvm._tvm import IRModule, relax
from xnortvm.graph.dataflow import Builder, Graph, const, op_name, rebuild, shape_of, value_of

_GREATER = ("relax.greater", "relax.greater_equal")


def canonicalize_prelu(mod: IRModule) -> IRModule:
    """Replace the spelled-out parametric ReLU by ``nn.prelu`` with one slope per channel.

    ``torch.export`` decomposes PReLU; at x = 0 both branches agree, so ``>`` and ``>=`` do too.
    """
    graph = Graph(mod["main"])

    def visit(builder: Builder, var: Any, call: Any) -> Any:
        matched = _match(graph, graph.value[var])
        if matched is None:
            return None
        x, slope, axis = matched
        return relax.op.nn.prelu(builder.new(x), const(slope), axis)

    return rebuild(mod, visit)


def _match(graph: Graph, call: Any) -> tuple[Any, Any, int] | None:
    if op_name(call) != "relax.where":
        return None
    condition, positive, negative = call.args
    compare, product = graph.producer(condition), graph.producer(negative)
    if op_name(compare) not in _GREATER or op_name(product) != "relax.multiply":
        return None
    zero = value_of(compare.args[1])
    if zero is None or zero.size != 1 or zero.item() != 0 or not compare.args[0].same_as(positive):
        return None
    slopes = [value_of(a) for a in product.args if not a.same_as(positive)]
    shape = shape_of(positive)
    if len(slopes) != 1 or slopes[0] is None or shape is None or len(shape) < 2:
        return None
    slope = slopes[0]
    axes = [i for i, d in enumerate(slope.shape) if d != 1]
    axis = axes[0] + len(shape) - slope.ndim if axes else 1
    if len(axes) > 1 or slope.ndim > len(shape):
        return None
    return positive, np.broadcast_to(slope.reshape(-1), (shape[axis],)).copy(), axis

# SPDX-License-Identifier: Apache-2.0
"""Floats that travel between kernels of binary layers → fp16 in memory, fp32 in kernels.

A kernel that reads such a tensor converts what it loads, one that makes it rounds what it stores;
all arithmetic stays fp32, and what a kernel computes beside the tensor (the signs of the next
layer) is computed from the number before it is rounded. Both conversions are operators of the
graph, so whoever evaluates the graph rounds at the same places, and `group` takes each of them into
the kernel that it belongs to.
"""

from __future__ import annotations

from typing import Any

from xnortvm._tvm import IRModule, ir, relax
from xnortvm.graph.dataflow import Builder, Graph, dtype_of, op_name, rebuild, shape_of
from xnortvm.transform.group import BINARY_KINDS, PACKS, REDUCTIONS, Region, find_regions

HALF, FLOAT = "float16", "float32"


def halve_trunk(mod: IRModule) -> tuple[IRModule, list[tuple[int, ...]]]:
    """Store the floats between kernels of binary layers as fp16.

    Parameters
    ----------
    mod : IRModule
        After `pipeline.graph_phases`.

    Returns
    -------
    IRModule
    list of tuple of int
        The shapes of what is fp16 now. Left alone is what the model returns, what float layers
        multiply, small sums, and what an operator reads that is no kernel of ours.
    """
    graph = Graph(mod["main"])
    owner = find_regions(graph)
    chosen = {var for var in owner if _is_trunk(graph, owner, var)}
    halves: dict[Any, Any] = {}

    def cast(builder: Builder, value: Any, dtype: str) -> Any:
        return builder.emit(relax.op.astype(value, dtype))

    def visit(builder: Builder, var: Any, call: Any) -> Any:
        old = graph.value[var]
        if not isinstance(old, ir.Call):
            return None
        args = list(call.args)
        for place, source in enumerate(old.args):
            if source not in chosen or owner.get(var) is owner[source]:
                continue
            if source not in halves:
                halves[source] = cast(builder, builder.new(source), HALF)
            args[place] = cast(builder, halves[source], FLOAT)
        return ir.Call(call.op, args, call.attrs, call.ty_args, call.span)

    stored = [shape_of(var) or () for var, _ in graph.calls() if var in chosen]
    return (rebuild(mod, visit) if chosen else mod), stored


def is_rounding(call: Any) -> bool:
    """Whether a call stores floats as fp16."""
    return op_name(call) == "relax.astype" and (dtype_of(call.args[0]), str(call.attrs.dtype)) == (
        FLOAT,
        HALF,
    )


def _is_trunk(graph: Graph, owner: dict[Any, Region], var: Any) -> bool:
    region = owner[var]
    readers = [user for user in graph.users[var] if owner.get(user) is not region]
    if not readers or region.kind in REDUCTIONS or dtype_of(var) != FLOAT:
        return False
    if not all(user is not None and _converts(graph, owner, user) for user in readers):
        return False
    return any(_is_binary(graph, each) for each in (region, *(owner.get(u) for u in readers)))


def _converts(graph: Graph, owner: dict[Any, Region], user: Any) -> bool:
    """Whether the kernel of a reader can convert what it loads, at no cost in precision."""
    region = owner.get(user)
    if region is None:
        return op_name(graph.value[user]) in REDUCTIONS and shape_of(user) is not None
    return not (region.is_layer and user.same_as(region.anchor))


def _is_binary(graph: Graph, region: Region | None) -> bool:
    """Whether a kernel computes a binary layer or signs."""
    if region is None:
        return False
    return region.kind in BINARY_KINDS or any(
        op_name(graph.value[var]) in PACKS for var in region.members
    )

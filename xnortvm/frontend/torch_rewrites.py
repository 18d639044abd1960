# SPDX-License-Identifier: Apache-2.0
"""Operators that TVM's importer does not take, written with operators that it does take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


def rewrite_operators(graph: fx.Graph) -> None:
    """Apply the rules of `RULES` to every node."""
    for node in list(graph.nodes):
        rule = RULES.get(node.target) if node.op == "call_function" else None
        if rule is None:
            continue
        with graph.inserting_before(node):
            new = rule(_Maker(node), *node.args, **node.kwargs)
        if new is not None:
            node.replace_all_uses_with(new)
            graph.erase_node(node)


class _Maker:
    """Makes the nodes that replace one node."""

    def __init__(self, node: fx.Node) -> None:
        self.node = node

    def __call__(self, target: Any, *args: Any) -> fx.Node:
        made = self.node.graph.call_function(target, args)
        values = fx.map_arg(args, lambda arg: arg.meta["val"])
        made.meta = {**self.node.meta, "val": target(*values)}
        return made


def _copysign(make: _Maker, magnitude: fx.Node, sign: fx.Node) -> fx.Node:
    positive = make(aten.abs.default, magnitude)
    negative = make(aten.neg.default, positive)
    return make(aten.where.self, make(aten.lt.Scalar, sign, 0), negative, positive)


def _signbit(make: _Maker, x: fx.Node) -> fx.Node:
    return make(aten.lt.Scalar, x, 0)


def _index_put(
    make: _Maker, x: fx.Node, indices: Any, values: fx.Node, accumulate: bool = False
) -> fx.Node | None:
    """``x[mask] = number``."""
    mask = indices[0] if len(indices) == 1 else None
    if mask is None or mask.meta["val"].dtype != torch.bool or accumulate:
        return None
    shape, value = mask.meta["val"].shape, values.meta["val"]
    if shape != x.meta["val"].shape or value.numel() != 1:
        return None
    number = values if value.dim() == 0 else make(aten.view.default, values, [])
    return make(aten.where.self, mask, number, x)


RULES: dict[Any, Callable[..., fx.Node | None]] = {
    aten.copysign.Tensor: _copysign,
    aten.index_put.default: _index_put,
    aten.signbit.default: _signbit,
}
"""A rule returns the node that takes the place of the old one, None to leave it.

The sign of a zero is taken for plus: a comparison with 0 is what a packed bit can hold.
"""

# SPDX-License-Identifier: Apache-2.0
"""Small rewrites of an exported graph before TVM's importer sees it.

Each makes explicit what the importer would read differently than PyTorch means it, or removes what
computes nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

_CHECKS = {
    aten._assert_async.default,
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten._assert_tensor_metadata.default,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
}
"""Operators that only raise when something is wrong."""

_COPIES = {
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.dropout.default,
    aten.lift_fresh_copy.default,
}
"""Operators whose result equals their first argument (dropout: in inference)."""

_RESHAPES = {
    aten._to_copy.default,
    aten._unsafe_view.default,
    aten.expand.default,
    aten.permute.default,
    aten.view.default,
}
"""Operators whose result equals their first argument when shape and dtype do, permute apart."""

_ARITHMETIC = {
    aten.add.Scalar,
    aten.add.Tensor,
    aten.div.Scalar,
    aten.div.Tensor,
    aten.maximum.default,
    aten.minimum.default,
    aten.mul.Scalar,
    aten.mul.Tensor,
    aten.pow.Scalar,
    aten.pow.Tensor_Scalar,
    aten.pow.Tensor_Tensor,
    aten.sub.Scalar,
    aten.sub.Tensor,
    aten.where.self,
}
"""Operators that compute in the dtype of their result."""

_COMPARISONS = {
    getattr(getattr(aten, name), form)
    for name in ("eq", "ge", "gt", "le", "lt", "ne")
    for form in ("Scalar", "Tensor")
}
"""Operators that compare in the common dtype of their arguments."""

_SCALED = {aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar}
"""Operators with a factor `alpha` for their second argument, which TVM's importer does not read."""


def drop_checks(graph: fx.Graph) -> None:
    """Remove assertions; what they look at goes with the dead code."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _CHECKS:
            node.replace_all_uses_with(node.args[0]) if node.users else None
            graph.erase_node(node)


def drop_copies(graph: fx.Graph) -> None:
    """Remove operators that return their argument."""
    for node in list(graph.nodes):
        if node.op == "call_function" and _returns_argument(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _returns_argument(node: fx.Node) -> bool:
    if node.target in _COPIES:
        return _kind(node) == _kind(node.args[0])
    if node.target == aten.permute.default:
        order = [axis % len(node.args[1]) for axis in node.args[1]] if node.args[1] else []
        return order == list(range(len(order)))
    return node.target in _RESHAPES and _kind(node) == _kind(node.args[0])


def _kind(node: Any) -> tuple[str, str]:
    value = node.meta["val"]
    return str(tuple(value.shape)), str(value.dtype)


def scale_explicitly(graph: fx.Graph) -> None:
    """Spell ``add(x, y, alpha=a)`` as ``add(x, y * a)``."""
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _SCALED:
            continue
        kwargs = dict(node.kwargs)
        alpha = kwargs.pop("alpha", 1)
        if alpha == 1:
            continue
        first, second = node.args[:2]
        if isinstance(second, fx.Node):
            with graph.inserting_before(node):
                scaled = graph.call_function(aten.mul.Tensor, (second, alpha))
            scaled.meta = {**node.meta, "val": second.meta["val"] * alpha}
            second = scaled
        else:
            second = second * alpha
        node.args, node.kwargs = (first, second), kwargs


def promote(graph: fx.Graph) -> None:
    """Cast the arguments of arithmetic and comparisons to the dtype that PyTorch computes in.

    TVM's importer makes a Python number a constant of the *tensor's* dtype: ``mask * 0.5`` would
    multiply by ``True``.
    """
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        operands = range(len(node.args[:2]))
        if node.target in _COMPARISONS:
            dtype = torch.result_type(*(_value(arg) for arg in node.args[:2]))
        elif node.target in _ARITHMETIC and isinstance(node.meta.get("val"), torch.Tensor):
            dtype = node.meta["val"].dtype
            if node.target == aten.where.self:
                operands = range(1, 3)
        else:
            continue
        args = list(node.args)
        for index in operands:
            args[index] = _cast(graph, node, args[index], dtype)
        node.args = tuple(args)


def _value(arg: Any) -> Any:
    return arg.meta["val"] if isinstance(arg, fx.Node) else arg


def _cast(graph: fx.Graph, user: fx.Node, arg: Any, dtype: torch.dtype) -> Any:
    value = arg.meta.get("val") if isinstance(arg, fx.Node) else None
    if not isinstance(value, torch.Tensor) or value.dtype == dtype:
        return arg
    with graph.inserting_before(user):
        cast = graph.call_function(aten._to_copy.default, (arg,), {"dtype": dtype})
    cast.meta = {**user.meta, "val": value.to(dtype)}
    return cast


CLEANUPS = (drop_checks, drop_copies, scale_explicitly, promote)
"""In this order: casts that are needed must not be taken for copies."""

# SPDX-License-Identifier: Apache-2.0
"""Rewriting of TIR: a copy of a statement in which some nodes are replaced by others."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from xnortvm._tvm import ir, tvm_ffi

#: Called with every node whose parts have been rewritten; what it returns takes its place.
Replace = Callable[[Any], Any]

#: Nodes that are looked at as a whole: names, and types.
_ATOMS = ("ir.Var", "ir.Op", "ir.GlobalVar", "ir.PrimType", "tirx.Buffer", "ir.Span")


def rewrite(node: Any, replace: Replace) -> Any:
    """Rewrite a statement or expression from the inside out.

    Parameters
    ----------
    node : tirx.Stmt, Expr, or list of them
    replace : callable
        From a node to the node that takes its place, itself in most cases.

    Returns
    -------
    The same kind of node; parts that do not change are shared with `node`.
    """
    if isinstance(node, list | tuple | tvm_ffi.Array):
        items = [rewrite(item, replace) for item in node]
        return node if all(map(_same, items, node)) else items
    if not isinstance(node, tvm_ffi.Object):
        return node
    cls: Any = type(node)
    changed = {}
    for name in _fields(cls):
        old = getattr(node, name)
        new = rewrite(old, replace)
        if not _same(new, old):
            changed[name] = new
    return replace(replaced(node, **changed) if changed else node)


def replaced(node: Any, **fields: Any) -> Any:
    """Return a copy of a node with other values in some of its fields."""
    cls: Any = type(node)
    values = {name: getattr(node, name) for name in _all_fields(cls)}
    return ir.make_node(cls.__tvm_ffi_type_info__.type_key, **{**values, **fields})


@cache
def _all_fields(cls: Any) -> tuple[str, ...]:
    """Names of all fields, those of the base classes first."""
    info = getattr(cls, "__tvm_ffi_type_info__", None)
    names: list[str] = []
    while info is not None:
        names = [field.name for field in info.fields or ()] + names
        info = info.parent_type_info
    return tuple(names)


@cache
def _fields(cls: Any) -> tuple[str, ...]:
    """Names of the fields that may hold statements and expressions."""
    info = getattr(cls, "__tvm_ffi_type_info__", None)
    if info is None or info.type_key in _ATOMS:
        return ()
    return tuple(name for name in _all_fields(cls) if name not in ("span", "ty", "annotations"))


def _same(new: Any, old: Any) -> bool:
    if isinstance(new, tvm_ffi.Object):
        return bool(new.same_as(old))
    return not isinstance(new, list)  # numbers, texts and None are never replaced

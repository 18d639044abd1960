# SPDX-License-Identifier: Apache-2.0
"""Where a node of an exported graph comes from: module path and line of the user's code."""

from __future__ import annotations

from torch import fx

from xnortvm.frontend.sources import SourceLine, innermost


def module_path(node: fx.Node) -> str:
    """Return the path of the innermost module that made the node, ``""`` for the model itself."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def layer_path(node: fx.Node) -> str:
    """Return the module path, or the node's own name for an operator in the model's own forward."""
    return module_path(node) or str(node.name)


def source_line(node: fx.Node) -> SourceLine | None:
    """Return the innermost line of the user's code that made the node."""
    return innermost(node.meta.get("stack_trace"))


def where(node: fx.Node) -> str:
    """Say in words where a node comes from, for messages."""
    path = module_path(node)
    text = f"in layer {path!r}" if path else "in the model's own forward"
    line = source_line(node)
    return f"{text} ({line})" if line else text

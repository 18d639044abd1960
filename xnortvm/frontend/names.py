# SPDX-License-Identifier: Apache-2.0
"""Names of layers: how a Relax call remembers the module of the user's model that it came from.

The name travels as the call's `span`, which TVM keeps through its own passes as long as the call is
kept; a pass that makes a new call for an old one passes it on with `keep_layer`. The variable that
the call is bound to carries the same name as an identifier, for the passes that drop spans
(`ConvertLayout` does).
"""

from __future__ import annotations

import re
from typing import Any

from xnortvm._tvm import BlockBuilder, ir, relax


def span(layer: str, line: int = 0) -> Any:
    """Make the span that says: this call came from `layer`, from this line of its source file."""
    return ir.Span(ir.SourceName(layer), line, line, 0, 0)


def layer_name(node: Any) -> str:
    """Name the layer of the user's model that a call or a binding came from.

    Parameters
    ----------
    node : relax.Call or relax.VarBinding
        With a binding, the name of its variable is the fallback.

    Returns
    -------
    str
        A module path such as ``"layer1.0.conv1"``; ``"layer1.0.conv1#2"`` for the second call of a
        shared module; without a span the name of the variable; without that the operator's name.
    """
    call = node.value if isinstance(node, relax.VarBinding) else node
    where = getattr(call, "span", None)
    if where is not None and getattr(where, "source_name", None) is not None:
        return str(where.source_name.name)
    if isinstance(node, relax.VarBinding):
        return str(node.var.name)
    operator = getattr(call, "op", None)
    return str(getattr(operator, "name", None) or getattr(operator, "name_hint", "")) or "unnamed"


def with_layer(expr: Any, where: Any) -> Any:
    """Return the call with another span; anything else as it is.

    Parameters
    ----------
    expr : relax.Expr
        Usually a call.
    where : Span or None
        Made by `span`, or the span of another call.
    """
    if where is None or not isinstance(expr, relax.Call):
        return expr
    return relax.Call(expr.op, list(expr.args), expr.attrs, list(expr.ty_args), where)


def keep_layer(new: Any, old: Any) -> Any:
    """Return the call `new` under the layer name of the call `old` that it replaces."""
    return with_layer(new, getattr(old, "span", None))


def identifier(layer: str) -> str:
    """Spell a layer name as an identifier: ``"layer1.0.conv1#2"`` gives ``"layer1_0_conv1_2"``."""
    word = re.sub(r"\W", "_", layer)
    return word if not word[:1].isdigit() else f"_{word}"


class LayerCounter:
    """Tells repeated layers apart: the second convolution of one module path gets ``#2``."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def unique(self, layer: str) -> str:
        """Return `layer` the first time, ``layer#2`` the second time, and so on."""
        self._seen[layer] = number = self._seen.get(layer, 0) + 1
        return layer if number == 1 else f"{layer}#{number}"


class LayerBuilder(BlockBuilder):  # type: ignore[misc]
    """A block builder that puts the current layer's span on every call that it emits.

    Nested calls are bound to variables of their own before the outer call is: TVM's normaliser
    would do the same, but makes a new outer call without the span.

    Attributes
    ----------
    where : Span or None
        The current layer.
    hint : str
        Name for the variables of the current layer; empty for TVM's own choice.
    """

    where: Any = None
    hint: str = ""

    def emit(self, expr: Any, name_hint: str = "") -> Any:
        """Bind an expression to a new variable."""
        return super().emit(self._marked(expr), name_hint or self.hint)

    def normalize(self, expr: Any) -> Any:
        """Infer the type of an expression; what is nested in it becomes variables."""
        return super().normalize(self._marked(expr))

    def _exit_function_scope(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        if exc_type is not None:  # or TVM warns on stderr about the block that stays open
            self._end_block()
        super()._exit_function_scope(exc_type, exc_val, exc_tb)

    def _marked(self, expr: Any) -> Any:
        """Return the expression with the layer's span and variables for what nests in it."""
        if isinstance(expr, list | tuple):
            return type(expr)(self._marked(item) for item in expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._bound(field) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self._bound(expr.tuple_value), expr.index)
        if not _is_relax_call(expr):
            return expr
        args = [self._bound(arg) for arg in expr.args]
        where = self.where if expr.span is None else expr.span
        return relax.Call(expr.op, args, expr.attrs, list(expr.ty_args), where)

    def _bound(self, expr: Any) -> Any:
        if _is_relax_call(expr) and expr.op != _NULL_VALUE:
            return self.emit(expr)
        return self._marked(expr)


_NULL_VALUE = ir.Op.get("relax.null_value")


def _is_relax_call(expr: Any) -> bool:
    if not isinstance(expr, relax.Call):
        return False
    operator = expr.op
    return not isinstance(operator, ir.Op) or str(operator.name).startswith("relax.")

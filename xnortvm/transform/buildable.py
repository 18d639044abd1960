# SPDX-License-Identifier: Apache-2.0
"""Operators that TVM imports and has no code for: sorts, scans and what makes sizes from data."""

from __future__ import annotations

from collections.abc import Mapping

from xnortvm._tvm import IRModule, ir
from xnortvm.frontend.unsupported import Unsupported
from xnortvm.graph.dataflow import Graph, layer_name, op_name

_BUILT_IN = frozenset(
    f"relax.{name}"
    for name in ("call_dps_packed", "call_pure_packed", "call_tir", "null_value", "shape_of")
)
"""Operators that the virtual machine itself runs, and placeholders, which have been noted."""


def without_code(mod: IRModule, sources: Mapping[str, str]) -> list[Unsupported]:
    """List the operators of ``main`` that no kernel can be made for.

    Parameters
    ----------
    mod : IRModule
        Before kernels are formed.
    sources : mapping of str to str
        Layer name to ``file.py:line``.
    """
    found = []
    for var, call in Graph(mod["main"]).calls():
        name = op_name(call)
        if not name.startswith("relax.") or name.startswith("relax.xnortvm.") or name in _BUILT_IN:
            continue
        if ir.Op.get(name).get_attr("FLegalize") is None:
            layer = layer_name(call, str(var.name))
            operator = name.removeprefix("relax.")
            found.append(
                Unsupported(operator, layer, sources.get(layer, ""), "TVM has no code for it here")
            )
    return found

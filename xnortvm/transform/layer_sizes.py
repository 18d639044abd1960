# SPDX-License-Identifier: Apache-2.0
"""How many bytes each layer's constants take as compiled: the report's last number."""

from __future__ import annotations

from typing import Any

from xnortvm._tvm import IRModule
from xnortvm.graph.dataflow import Graph, is_const, value_of
from xnortvm.report import Report
from xnortvm.transform.group import find_regions


class AddLayerSizes:
    """The pass: counts what the kernel of every layer carries; changes nothing.

    Packed weights, tables of border corrections, factors of Γ, scales, shifts and thresholds, each
    once for a layer.

    Parameters
    ----------
    report : Report
        Gets `bytes_after` of its rows.
    """

    def __init__(self, report: Report) -> None:
        self.report = report

    def __call__(self, mod: IRModule) -> IRModule:
        """Return the same module."""
        graph = Graph(mod["main"])
        rows = {row.name: row for row in self.report.layers}
        constants: dict[str, dict[Any, int]] = {}
        for var, region in find_regions(graph).items():
            if region.is_layer and region.layer in rows:
                known = constants.setdefault(region.layer, {})
                for arg in getattr(graph.value[var], "args", ()):
                    value = value_of(arg) if is_const(arg) else None
                    if value is not None:
                        known[arg] = value.nbytes
        for name, sizes in constants.items():
            rows[name].bytes_after = sum(sizes.values())
        return mod

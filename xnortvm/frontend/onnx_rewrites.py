# SPDX-License-Identifier: Apache-2.0
"""ONNX node patterns that TVM's importer does not take, written with nodes that it does take."""

from __future__ import annotations

from typing import Any

from onnx import helper

from xnortvm.frontend.onnx_graph import OnnxGraph


def rewrite_nodes(graph: OnnxGraph) -> None:
    """Write ``x[mask] = number`` as `Where`.

    PyTorch's dynamo exporter spells it as ScatterND over the indices that NonZero finds, whose
    number depends on the data.
    """
    makers = {name: node for node in graph.nodes for name in node.output}
    graph.nodes = [_masked(node, makers, graph) or node for node in graph.nodes]
    graph.drop_dead()


def _masked(node: Any, makers: dict[str, Any], graph: OnnxGraph) -> Any | None:
    if node.op_type != "ScatterND" or any(
        a.name == "reduction" and a.s != b"none" for a in node.attribute
    ):
        return None
    data, indices, updates = node.input
    mask = _source(indices, ("Transpose", "NonZero"), makers)
    number = updates
    while (maker := makers.get(number)) is not None and maker.op_type in ("Expand", "Reshape"):
        number = maker.input[0]
    value = graph.constants.get(number)
    if mask is None or value is None or value.size != 1:
        return None
    if graph.shapes.get(mask) is None or graph.shapes[mask] != graph.shapes.get(data):
        return None
    graph.constants[scalar := f"{node.output[0]}/number"] = value.reshape(())
    where = helper.make_node("Where", [mask, scalar, data], list(node.output), name=node.name)
    where.metadata_props.extend(node.metadata_props)
    return where


def _source(name: str, operators: tuple[str, ...], makers: dict[str, Any]) -> str | None:
    """Follow first inputs back through these operators; None when others are met."""
    for operator in operators:
        node = makers.get(name)
        if node is None or node.op_type != operator:
            return None
        name = node.input[0]
    return name

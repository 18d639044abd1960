# SPDX-License-Identifier: Apache-2.0
"""Evaluate the nodes of an ONNX graph that do not depend on its inputs.

That turns the exporters' chains of shape operators into numbers (padding, reshape targets), and
every spelling of a binarised weight into a constant, as `torch_constants` does for PyTorch. Values
are computed by ``onnx.reference``, the ONNX project's own NumPy implementation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper
from onnx.reference import ReferenceEvaluator

from xnortvm.frontend.onnx_graph import Array, OnnxGraph
from xnortvm.frontend.onnx_shapes import ShapeValues

_LOG = logging.getLogger("xnortvm")

_RANDOM = frozenset(
    [
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    ]
)

_STANDARD = frozenset({"", "ai.onnx"})


def fold(graph: OnnxGraph) -> None:
    """Evaluate input-independent nodes in place, until nothing changes any more.

    A folded shape lets shape inference know more, and that makes more nodes foldable.
    """
    changed = True
    while changed:
        graph.infer_shapes()
        changed = _fold_once(graph)
    graph.drop_dead()


def _fold_once(graph: OnnxGraph) -> bool:
    shapes = ShapeValues(graph)
    kept: list[Any] = []
    changed = False
    readers = graph.readers()
    for node in graph.nodes:
        branch = _constant_branch(node, graph)
        if branch is not None:
            kept.extend(branch)
            readers.update(name for inner in branch for name in inner.input)
            changed = True
            continue
        values = _evaluated(node, graph)
        if values is None:
            values = shapes.evaluated(node)
        if values is None:
            shapes.simplify(node)
            kept.append(node)
        else:
            graph.constants.update(values)
            changed = True
            readers.subtract(node.input)
            for name in node.input:  # a latent weight goes as soon as its sign is known
                if readers[name] <= 0:
                    graph.constants.pop(name, None)
    graph.nodes = kept
    return changed


def _evaluated(node: Any, graph: OnnxGraph) -> dict[str, Array] | None:
    """Compute a node's outputs, or return None when that is not possible."""
    inputs = [name for name in node.input if name]
    if node.domain not in _STANDARD or node.op_type in _RANDOM:
        return None
    if any(name not in graph.constants for name in inputs) or _has_graphs(node):
        return None
    outputs = [name for name in node.output if name]
    feeds = {name: graph.constants[name] for name in inputs}
    quick = _QUICK.get(node.op_type)
    if quick is not None and len(outputs) == 1:
        return {outputs[0]: np.asarray(quick(*(graph.constants[name] for name in inputs)))}
    try:
        results = _evaluator(node, feeds, outputs, graph).run(None, feeds)
    except Exception as error:  # the reference implementation lacks an operator or a case of it
        _LOG.debug("onnx.reference cannot evaluate %s %s: %s", node.op_type, node.name, error)
        return None
    return {n: np.asarray(v) for n, v in zip(outputs, results, strict=True)}


_QUICK: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Identity": lambda x: x,
    "Mul": np.multiply,
    "Sign": np.sign,
    "Sub": np.subtract,
}
"""Operators of one meaning in NumPy and in every opset: they need no evaluator of their own."""


def _evaluator(node: Any, feeds: dict[str, Array], outputs: list[str], graph: OnnxGraph) -> Any:
    declared = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in feeds.items()
    ]
    results = [helper.make_empty_tensor_value_info(name) for name in outputs]
    inner = helper.make_graph([node], "node", declared, results)
    opsets = [helper.make_opsetid(domain, version) for domain, version in graph.opsets.items()]
    return ReferenceEvaluator(helper.make_model(inner, opset_imports=opsets))


def _has_graphs(node: Any) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _constant_branch(node: Any, graph: OnnxGraph) -> list[Any] | None:
    """Return the nodes of the branch that an `If` takes when its condition is known."""
    if node.op_type != "If" or node.input[0] not in graph.constants:
        return None
    name = "then_branch" if graph.constants[node.input[0]].all() else "else_branch"
    branch = next(a.g for a in node.attribute if a.name == name)
    if branch.initializer:
        inner = OnnxGraph.of(helper.make_model(branch))
        graph.constants.update(inner.constants)
    copies = [
        helper.make_node("Identity", [value.name], [output], name=node.name)
        for value, output in zip(branch.output, node.output, strict=True)
    ]
    return [*branch.node, *copies]

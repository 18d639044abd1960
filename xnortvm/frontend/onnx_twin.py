# SPDX-License-Identifier: Apache-2.0
"""Run an ONNX model beside the compiled one, layer by layer.

ONNX Runtime does it where it is installed, else ``onnx.reference``, the ONNX project's own NumPy
implementation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from xnortvm.frontend.onnx_graph import OnnxGraph
from xnortvm.frontend.twin import Array, TwinRun

_LOG = logging.getLogger("xnortvm")


class OnnxTwin:
    """The folded graph, cut at layers; and the user's own model.

    Parameters
    ----------
    graph : callable
        Makes the graph as it was translated, once it is needed.
    layers : dict of str to str
        Layer name to the name of its operator's output.
    model : ModelProto or Path
        What the user gave.
    examples : list of ndarray, optional
        Example inputs.
    """

    def __init__(
        self,
        graph: Callable[[], OnnxGraph],
        layers: Mapping[str, str],
        model: Any,
        examples: list[Array] | None = None,
    ) -> None:
        self._make = graph
        self._names = dict(layers)
        self._model = model
        self._examples = examples

    @cached_property
    def _graph(self) -> OnnxGraph:
        return self._make()

    @cached_property
    def _layers(self) -> dict[str, Any]:
        makers = {name: node for node in self._graph.nodes for name in node.output}
        return {layer: makers[name] for layer, name in self._names.items() if name in makers}

    @property
    def framework(self) -> str:
        """Who runs it."""
        return "onnx.reference" if _runtime() is None else "ONNX Runtime"

    def examples(self) -> list[Array] | None:
        """Return the example inputs."""
        return self._examples

    def cut(self, inputs: Sequence[Array], forced: Mapping[str, Array]) -> TwinRun:
        """Run a model whose named layers read further inputs instead of their own."""
        names = [value.name for value in self._graph.inputs]
        feeds = dict(zip(names, inputs, strict=True))
        renamed: dict[int, str] = {}
        for index, (name, value) in enumerate(forced.items()):
            node = self._layers.get(name)
            if node is not None and self._fits(node.input[0], value):
                renamed[id(node)] = f"xnortvm_forced_{index}"
                feeds[renamed[id(node)]] = value.reshape(self._shape(node.input[0], value))
        nodes = [_with_first_input(node, renamed.get(id(node))) for node in self._graph.nodes]
        outputs = [value.name for value in self._graph.outputs]
        wanted = list(
            dict.fromkeys(
                [
                    *outputs,
                    *(n for node in self._layers.values() for n in (node.input[0], node.output[0])),
                ]
            )
        )
        made = {name for node in nodes for name in node.output}
        asked = [name for name in wanted if name in made]
        model = self._cut_model(nodes, feeds, asked)
        values = {**feeds, **self._graph.constants, **_run(model, feeds, asked)}
        layers = {
            name: (values[node.input[0]], self._without_bias(node, values[node.output[0]]))
            for name, node in self._layers.items()
            if node.input[0] in values
        }
        return TwinRun([values[name] for name in outputs], layers)

    def _fits(self, name: str, value: Array) -> bool:
        shape = self._graph.shapes.get(name)
        known = [n for n in shape or () if isinstance(n, int)]
        return shape is None or len(known) < len(shape) or int(np.prod(known)) == value.size

    def _shape(self, name: str, value: Array) -> tuple[int, ...]:
        shape = self._graph.shapes.get(name)
        if shape is None or not all(isinstance(n, int) for n in shape):
            return value.shape
        return tuple(shape)

    def _cut_model(self, nodes: list[Any], feeds: Mapping[str, Array], asked: list[str]) -> Any:
        cut = OnnxGraph(
            nodes,
            self._graph.constants,
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
                )
                for name, value in feeds.items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in asked],
            self._graph.opsets,
            self._graph.ir_version,
            self._graph.parameters,
        )
        return cut.model()

    def _without_bias(self, node: Any, value: Array) -> Array | None:
        """Return the product alone; None where it is scaled or the bias is no constant."""
        scales = {a.name: a.f for a in node.attribute if a.name in ("alpha", "beta")}
        if any(scale != 1 for scale in scales.values()):
            return None
        if len(node.input) < 3 or not node.input[2]:
            return value
        bias = self._graph.constants.get(node.input[2])
        if bias is None:
            return None
        conv = node.op_type.startswith("Conv")
        product: Array = value - (bias.reshape(-1, *(1,) * (value.ndim - 2)) if conv else bias)
        return product

    def whole(self, inputs: Sequence[Array]) -> list[Array] | None:
        """Run the user's model."""
        names = [value.name for value in self._graph.inputs]
        outputs = [value.name for value in self._graph.outputs]
        try:
            model = self._model
            if isinstance(model, Path) and _runtime() is None:
                model = onnx.load(model)
            values = _run(model, dict(zip(names, inputs, strict=True)), outputs)
        except Exception as error:  # operators that this implementation does not have
            _LOG.debug("%s cannot run the ONNX model: %s", self.framework, error)
            return None
        return [values[name] for name in outputs]


def _with_first_input(node: Any, name: str | None) -> Any:
    if name is None:
        return node
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    copied.input[0] = name
    return copied


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        return None
    return onnxruntime


def _run(model: Any, feeds: Mapping[str, Array], outputs: list[str]) -> dict[str, Array]:
    runtime = _runtime()
    if runtime is None:
        from onnx.reference import ReferenceEvaluator

        values = ReferenceEvaluator(model).run(outputs, dict(feeds))
    else:
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        source = str(model) if isinstance(model, Path) else model.SerializeToString()
        session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        values = session.run(outputs, {k: np.asarray(v, order="C") for k, v in feeds.items()})
    return {name: np.asarray(value) for name, value in zip(outputs, values, strict=True)}

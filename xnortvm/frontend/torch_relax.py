# SPDX-License-Identifier: Apache-2.0
"""From an inference graph to Relax, with TVM's converters and the user's layer names."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from xnortvm._tvm import relax, tirx
from xnortvm.errors import UnsupportedOperatorError
from xnortvm.frontend.constant import constant
from xnortvm.frontend.messages import last_line
from xnortvm.frontend.names import LayerBuilder, LayerCounter, identifier, span
from xnortvm.frontend.torch_converters import CONVERTERS
from xnortvm.frontend.torch_graph import PRODUCTS, InferenceGraph
from xnortvm.frontend.torch_names import layer_path, source_line, where


class GraphTranslator(ExportedProgramImporter):  # type: ignore[misc]
    """Translates an inference graph; one object per graph.

    Attributes
    ----------
    sources : dict
        Layer name to ``file.py:line``, filled by `translate`.
    layers : dict
        Layer name to the node that is the layer, filled by `translate`.
    """

    def __init__(self, graph: InferenceGraph) -> None:
        super().__init__()
        self._graph = graph
        self._layers = LayerCounter()
        self._symbols: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.layers: dict[str, fx.Node] = {}

    def translate(self) -> Any:
        """Translate the graph.

        Returns
        -------
        IRModule
            With one function ``main`` from the inputs to the outputs that are tensors.

        Raises
        ------
        UnsupportedOperatorError
            Naming every operator that TVM cannot import, with layer and line.
        """
        nodes = list(self._graph.module.graph.nodes)
        self._refuse_unknown(nodes)
        self.block_builder = LayerBuilder()
        for node in self._graph.inputs:
            self.env[node] = self._parameter(node)
        params = [self.env[node] for node in self._graph.inputs]
        with self.block_builder.function("main", params=params, attrs=self._bounds()):
            with self.block_builder.dataflow():
                for node in nodes:
                    self._translate_node(node)
                values = [self.env[v] for v in self._graph.outputs if isinstance(v, fx.Node)]
                value = values[0] if len(values) == 1 else relax.Tuple(values)
                output = self.block_builder.emit_output(value)
            self.block_builder.emit_func_output(output)
        return self.block_builder.get()

    def _refuse_unknown(self, nodes: list[fx.Node]) -> None:
        known = {*self.convert_map, *CONVERTERS} - {"cond"}
        unknown = {
            f"{_operator_name(node)} {where(node)}": None
            for node in nodes
            if node.op == "call_function" and _operator_name(node) not in known
        }
        if unknown:
            raise UnsupportedOperatorError(
                f"TVM's importer has no rule for {'; '.join(unknown)}: rewrite the layer with "
                "other operators, or compute it outside of the compiled model"
            )

    def _parameter(self, node: fx.Node) -> Any:
        value = node.meta["val"]
        shape = [self._dimension(extent) for extent in value.shape]
        dtype = self._convert_data_type(value.dtype)
        return relax.Var(identifier(node.name), relax.TensorType(shape, dtype))

    def _dimension(self, extent: Any) -> Any:
        if isinstance(extent, int):
            return extent
        _, derived = self._process_derived_symbol(extent.node.expr, self._symbols)
        if derived is not None:
            return derived
        name = str(extent.node.expr)
        return self._symbols.setdefault(name, tirx.Var(name, "int64"))

    def _bounds(self) -> dict[str, Any]:
        ranges = self._graph.ranges
        attrs = {"tir_var_lower_bound": {name: low for name, (low, _) in ranges.items()}}
        attrs["tir_var_upper_bound"] = {
            name: high for name, (_, high) in ranges.items() if high is not None
        }
        return {key: value for key, value in attrs.items() if value}

    def _translate_node(self, node: fx.Node) -> None:
        if node.op == "get_attr":
            value = getattr(self._graph.module, node.target)
            self.env[node] = _constant(value) if isinstance(value, torch.Tensor) else value
        elif node.op == "call_function":
            self._enter(node)
            try:
                own = CONVERTERS.get(_operator_name(node))
                value = own(node, self) if own else self.convert_map[_operator_name(node)](node)
                self.env[node] = self._bind(value)
            except Exception as error:  # TVM's converters raise anything
                raise UnsupportedOperatorError(
                    f"TVM's importer cannot convert {_operator_name(node)} {where(node)}: "
                    f"{last_line(error)}; rewrite the layer with other operators"
                ) from error

    def _enter(self, node: fx.Node) -> None:
        layer = layer_path(node)
        if node.target in PRODUCTS:
            layer = self._layers.unique(layer)
            self.layers[layer] = node
        line = source_line(node)
        if line is not None and (node.target in PRODUCTS or layer not in self.sources):
            self.sources[layer] = f"{line.file}:{line.line}"
        self.block_builder.where = span(layer, line.line if line else 0)
        self.block_builder.hint = identifier(layer) if node.target in PRODUCTS else ""

    def _bind(self, value: Any) -> Any:
        return self.block_builder.emit(value) if isinstance(value, relax.Call) else value


def _operator_name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _constant(value: torch.Tensor) -> Any:
    dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
    return constant(dense.cpu().numpy())

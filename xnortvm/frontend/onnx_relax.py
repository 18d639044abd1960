# SPDX-License-Identifier: Apache-2.0
"""From a folded ONNX graph to Relax, with TVM's converters and the user's layer names."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

from tvm.relax.frontend.onnx import onnx_frontend

from xnortvm._tvm import relax
from xnortvm.errors import UnsupportedOperatorError
from xnortvm.frontend.messages import last_line
from xnortvm.frontend.names import LayerBuilder, LayerCounter, identifier, span
from xnortvm.frontend.onnx_converters import CONVERTERS
from xnortvm.frontend.onnx_graph import OnnxGraph
from xnortvm.frontend.onnx_names import OnnxNames, source_line

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that are layers of their own: they get numbered names when a module makes several."""

_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})


class OnnxTranslator(onnx_frontend.ONNXGraphImporter):  # type: ignore[misc]
    """Translates a folded graph; one object per graph.

    Attributes
    ----------
    sources : dict
        Layer name to ``file.py:line``, filled by `translate`.
    layers : dict
        Layer name to the node that is the layer, filled by `translate`.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__({}, {})
        self.bb = LayerBuilder()
        self.sources: dict[str, str] = {}
        self.layers: dict[str, Any] = {}
        self._graph = graph
        self._names = OnnxNames(graph.parameters)
        self._layers = LayerCounter()
        self._nodes_by_name: dict[str, Any] = {}

    def translate(self) -> Any:
        """Translate the graph.

        Returns
        -------
        IRModule
            With one function ``main``.

        Raises
        ------
        UnsupportedOperatorError
            Naming every operator that TVM cannot import, with its layer.
        """
        self._refuse_unknown()
        self._nodes_by_name = {str(i): node for i, node in enumerate(self._graph.nodes)}
        model = self._graph.model()
        for index, node in enumerate(model.graph.node):
            node.name = str(index)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return self.from_onnx(model.graph, self._graph.opsets[""])

    def _sanitize_name(self, name: str) -> str:
        """Spell an input's name as an identifier that no other input has."""
        return str(self._name_supply.fresh_name(identifier(name) or "input"))

    def _check_for_unsupported_ops(self, graph: Any) -> None:
        """Nothing: `_refuse_unknown` has looked already, and knows more operators."""

    def _refuse_unknown(self) -> None:
        known = {*onnx_frontend._get_convert_map(), *CONVERTERS, "If", "Constant"}
        unknown = {
            f"{_operator_name(node)} of {self._names.layer(node)!r}": None
            for node in self._graph.nodes
            if node.domain not in _DOMAINS or node.op_type not in known
        }
        if unknown:
            raise UnsupportedOperatorError(
                f"TVM's importer has no rule for {'; '.join(unknown)}: replace the operators in "
                "the model, or cut the model there and compute them outside"
            )

    def _convert_operator(self, op_name: str, inputs: Any, attrs: Any, opset: int) -> Any:
        node = self._nodes_by_name.get(attrs["tvm_custom"]["name"])
        if node is not None:
            self._enter(node)
        own = CONVERTERS.get(op_name)
        try:
            value = own(inputs, attrs) if own is not None else None
            if value is not None:
                return self.bb.emit(value)
            return self._bound(super()._convert_operator(op_name, inputs, attrs, opset))
        except UnsupportedOperatorError:
            raise
        except Exception as error:  # TVM's converters raise anything
            layer = f" of {self._names.layer(node)!r}" if node is not None else ""
            raise UnsupportedOperatorError(
                f"TVM's importer cannot convert {op_name}{layer}: {last_line(error)}; replace the "
                "operator in the model"
            ) from error

    def _enter(self, node: Any) -> None:
        is_layer = node.op_type in LAYERS
        layer = self._names.layer(node)
        if is_layer:
            layer = self._layers.unique(layer)
            self.layers[layer] = node
        line = source_line(node)
        if line is not None and (is_layer or layer not in self.sources):
            self.sources[layer] = f"{line.file}:{line.line}"
        self.bb.where = span(layer, line.line if line else 0)
        self.bb.hint = identifier(layer) if is_layer else ""

    def _bound(self, value: Any) -> Any:
        """Bind a result to a variable: TVM leaves it as an expression, copied to every use."""
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._bound(item) for item in value.fields])
        if isinstance(value, relax.TupleGetItem):
            return self.bb.emit(value)
        tensor = isinstance(value, relax.Call) and isinstance(
            value.ty, relax.TensorType | relax.TupleType
        )
        return self.bb.emit(value) if tensor else value


def _operator_name(node: Any) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)

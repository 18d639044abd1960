# SPDX-License-Identifier: Apache-2.0
"""From a folded ONNX graph to Relax, with TVM's converters and the user's layer names."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import numpy as np
from onnx import numpy_helper
from tvm.relax.frontend.onnx import onnx_frontend

from xnortvm._tvm import relax
from xnortvm.errors import UnsupportedOperatorError
from xnortvm.frontend.messages import last_line
from xnortvm.frontend.names import LayerBuilder, LayerCounter, identifier, span
from xnortvm.frontend.onnx_converters import CONVERTERS
from xnortvm.frontend.onnx_graph import OnnxGraph
from xnortvm.frontend.onnx_names import OnnxNames, source_line
from xnortvm.frontend.unsupported import PLACEHOLDER, Unsupported, refuse
from xnortvm.graph.dataflow import dtype_of

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
        self._known = {*onnx_frontend._get_convert_map(), *CONVERTERS, "If", "Constant"}
        self._unsupported: list[Unsupported] = []
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
        self._nodes_by_name = {str(i): node for i, node in enumerate(self._graph.nodes)}
        model = self._graph.model(constants=False)
        for index, node in enumerate(model.graph.node):
            node.name = str(index)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            mod = self.from_onnx(model.graph, self._graph.opsets[""])
        refuse(self._unsupported)
        return mod

    def _parse_graph_initializers(self, graph: Any) -> None:
        """Make constants of the folded arrays, one by one: a model that holds all is a copy."""
        for name in self._graph.used():
            value = self._graph.constants.get(name)
            if value is not None:
                tensor = numpy_helper.from_array(np.asarray(value, order="C"), name)
                self._nodes[name] = relax.const(self._parse_array(tensor))

    def _sanitize_name(self, name: str) -> str:
        """Spell an input's name as an identifier that no other input has."""
        return str(self._name_supply.fresh_name(identifier(name) or "input"))

    def _check_for_unsupported_ops(self, graph: Any) -> None:
        """Nothing: `_convert_operator` notes each of them, and knows more operators."""

    def _convert_operator(self, op_name: str, inputs: Any, attrs: Any, opset: int) -> Any:
        node = self._nodes_by_name.get(attrs["tvm_custom"]["name"])
        if node is not None:
            self._enter(node)
        own = CONVERTERS.get(op_name)
        if node is not None and not self._knows(node):
            return self._stand_in(node, inputs, "TVM's importer has no rule for it")
        try:
            value = own(inputs, attrs) if own is not None else None
            if value is not None:
                return self.bb.emit(value)
            return self._bound(super()._convert_operator(op_name, inputs, attrs, opset))
        except UnsupportedOperatorError:
            raise
        except Exception as error:  # TVM's converters raise anything
            why = f"TVM's importer cannot convert it ({last_line(error)})"
            if node is None:  # inside of a sub-graph, whose node is not known
                refuse([Unsupported(op_name, "", "", why)])
                raise
            return self._stand_in(node, inputs, why, error)

    def _stand_in(self, node: Any, inputs: Any, why: str, error: Exception | None = None) -> Any:
        """Note an operator, and go on with a call that has the type of its result."""
        line = source_line(node)
        self._unsupported.append(
            Unsupported(_operator_name(node), self._names.layer(node), str(line or ""), why)
        )
        tensors = [arg for arg in inputs if isinstance(getattr(arg, "ty", None), relax.TensorType)]
        shapes = [self._graph.shapes.get(name) for name in node.output if name]
        known = [s for s in shapes if s is not None and all(isinstance(n, int) for n in s)]
        if len(known) < len(shapes):
            # What follows has no shape, so that nothing more can be said of it.
            later = self._graph.nodes[self._graph.nodes.index(node) + 1 :]
            refuse([*self._unsupported, *(self._unknown(n) for n in later if not self._knows(n))])
            raise UnsupportedOperatorError(
                "the model cannot be compiled, and not explained behind an operator whose result "
                f"has no known shape: {'; '.join(map(str, self._unsupported))}"
            ) from error
        dtype = dtype_of(tensors[0]) if tensors else "float32"
        types = [relax.TensorType(shape, dtype) for shape in known]
        call = relax.call_dps_packed(
            PLACEHOLDER, relax.Tuple(tensors), types if len(types) > 1 else types[0]
        )
        value = self.bb.emit(call)
        if len(types) == 1:
            return value
        return relax.Tuple([self.bb.emit(relax.TupleGetItem(value, i)) for i in range(len(types))])

    def _knows(self, node: Any) -> bool:
        return node.domain in _DOMAINS and node.op_type in self._known

    def _unknown(self, node: Any) -> Unsupported:
        line = str(source_line(node) or "")
        why = "TVM's importer has no rule for it"
        return Unsupported(_operator_name(node), self._names.layer(node), line, why)

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

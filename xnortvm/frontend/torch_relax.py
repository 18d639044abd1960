# SPDX-License-Identifier: Apache-2.0
"""From an inference graph to Relax, with TVM's converters and the user's layer names."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from xnortvm._tvm import relax, tirx
from xnortvm.errors import ModelError, UnsupportedOperatorError
from xnortvm.frontend.constant import constant
from xnortvm.frontend.messages import last_line
from xnortvm.frontend.names import LayerBuilder, LayerCounter, identifier, span
from xnortvm.frontend.torch_converters import CONVERTERS
from xnortvm.frontend.torch_graph import PRODUCTS, InferenceGraph
from xnortvm.frontend.torch_names import layer_path, module_path, source_line
from xnortvm.frontend.unsupported import PLACEHOLDER, Unsupported, refuse


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
        self._unsupported: list[Unsupported] = []

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
        refuse(self._unsupported)
        return self.block_builder.get()

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
            name = _operator_name(node)
            own = CONVERTERS.get(name)
            if own is None and (name == "cond" or name not in self.convert_map):
                self._stand_in(node, "TVM's importer has no rule for it")
                return
            try:
                value = own(node, self) if own else self.convert_map[name](node)
                self.env[node] = self._bind(value)
                _check_shape(node, self.env[node])
            except Exception as error:  # TVM's converters raise anything
                self._stand_in(
                    node, f"TVM's importer cannot convert it ({last_line(error)})", error
                )

    def _stand_in(self, node: fx.Node, why: str, error: Exception | None = None) -> None:
        """Note an operator, and go on with a call that has the type of its result."""
        line = source_line(node)
        self._unsupported.append(
            Unsupported(_operator_name(node), module_path(node), str(line or ""), why)
        )
        try:
            self.env[node] = self._placeholder(node)
        except Exception:  # a result that has no type in Relax: nothing can be said of what follows
            refuse(self._unsupported)
            raise UnsupportedOperatorError(
                f"the model cannot be compiled and not explained: {self._unsupported[-1]}"
            ) from error

    def _placeholder(self, node: fx.Node) -> Any:
        values = node.meta["val"]
        several = isinstance(values, tuple | list)
        types = [
            relax.TensorType(
                [self._dimension(extent) for extent in value.shape],
                self._convert_data_type(value.dtype),
            )
            for value in (values if several else [values])
        ]
        inputs = [self.env[arg] for arg in node.all_input_nodes]
        tensors = [arg for arg in inputs if isinstance(getattr(arg, "ty", None), relax.TensorType)]
        call = relax.call_dps_packed(
            PLACEHOLDER, relax.Tuple(tensors), types if several else types[0]
        )
        return self.block_builder.emit(call)

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


_NOT_IN_NUMPY = frozenset(
    {torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.complex128}
)


def _check_shape(node: fx.Node, value: Any) -> None:
    """Refuse a result of another shape than PyTorch's.

    Raises
    ------
    ValueError
        With both shapes.
    """
    expected, ty = node.meta.get("val"), getattr(value, "ty", None)
    if not isinstance(expected, torch.Tensor) or not isinstance(ty, relax.TensorType):
        return
    shape = list(expected.shape)
    extents = [] if ty.shape is None else list(ty.shape.values)
    if ty.shape is None or not all(isinstance(each, int | tirx.IntImm) for each in shape + extents):
        return  # a dynamic extent
    found = [int(extent) for extent in extents]
    if found != shape:
        raise ValueError(f"its result would have the shape {found} instead of {shape}")


def _operator_name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _constant(value: torch.Tensor) -> Any:
    if value.dtype in _NOT_IN_NUMPY:
        raise ModelError(
            f"a constant of the model is {str(value.dtype).removeprefix('torch.')}, which is not "
            "supported; convert the model and its inputs with .float(), and leave out "
            "torch.autocast"
        )
    dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
    return constant(dense.cpu().numpy())

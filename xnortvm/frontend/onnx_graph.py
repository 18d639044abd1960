# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph as lists and arrays, which passes can change without copying weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


@dataclass
class OnnxGraph:
    """A model's main graph.

    Parameters
    ----------
    nodes : list of onnx.NodeProto
        In topological order.
    constants : dict of str to ndarray
        Values that are known: initialisers, `Constant` nodes, and what folding adds.
    inputs, outputs : list of onnx.ValueInfoProto
        Inputs are those that the user feeds.
    opsets : dict of str to int
        Domain ("" for ONNX itself) to version.
    ir_version : int
    parameters : tuple of str
        Names of the initialisers.
    shapes : dict of str to tuple
        Extents by value name where shape inference knows the rank: integers, or names of dynamic
        dimensions, or None.
    """

    nodes: list[Any]
    constants: dict[str, Array]
    inputs: list[Any]
    outputs: list[Any]
    opsets: dict[str, int]
    ir_version: int
    parameters: tuple[str, ...]
    shapes: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Any, weights: Any = None) -> OnnxGraph:
        """Take a model apart. The nodes are copied, so that the model stays as it is.

        Parameters
        ----------
        model : onnx.ModelProto
        weights : onnx.GraphProto, optional
            Where the initialisers are, if the model has been stripped of them.
        """
        graph = model.graph
        weights = graph if weights is None else weights
        constants = {init.name: numpy_helper.to_array(init) for init in weights.initializer}
        constants.update((s.values.name, _dense(s)) for s in weights.sparse_initializer)
        parameters = tuple(constants)
        nodes = []
        for node in graph.node:
            value = _constant_value(node)
            if value is None:
                nodes.append(copied := onnx.NodeProto())
                copied.CopyFrom(node)
            else:
                constants[node.output[0]] = value
        opsets = {
            "" if entry.domain == "ai.onnx" else entry.domain: entry.version
            for entry in model.opset_import
        }
        inputs = [_copied(value) for value in graph.input if value.name not in constants]
        outputs = [_copied(value) for value in graph.output]
        return cls(nodes, constants, inputs, outputs, opsets, model.ir_version, parameters)

    def model(self, *, constants: bool = True) -> Any:
        """Put the model together again, constants that are used as initialisers, or without."""
        used = [name for name in self.used() if name in self.constants] if constants else []
        graph = helper.make_graph(
            self.nodes,
            "main",
            self.inputs,
            self.outputs,
            [numpy_helper.from_array(np.asarray(self.constants[n], order="C"), n) for n in used],
        )
        return self._wrapped(graph)

    def infer_shapes(self) -> None:
        """Fill `shapes`. Large constants are declared, not copied."""
        small = {n: v for n, v in self.constants.items() if v.size <= 256}
        declared = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in self.constants.items()
            if n not in small
        ]
        graph = helper.make_graph(
            self.nodes,
            "main",
            [*self.inputs, *declared],
            self.outputs,
            [numpy_helper.from_array(np.asarray(value), name) for name, value in small.items()],
        )
        inferred = onnx.shape_inference.infer_shapes(self._wrapped(graph), data_prop=True).graph
        for value in (*inferred.value_info, *inferred.input, *inferred.output):
            shape = extents(value)
            if shape is not None:
                self.shapes[value.name] = shape
        self.shapes.update((name, value.shape) for name, value in self.constants.items())

    def used(self) -> list[str]:
        """List the names that nodes (and their sub-graphs) and outputs read, in order."""
        names = [name for node in self.nodes for name in _reads(node)]
        return list(dict.fromkeys([*names, *(value.name for value in self.outputs)]))

    def readers(self) -> Counter[str]:
        """Count how many nodes and outputs read each name."""
        names = Counter(name for node in self.nodes for name in _reads(node))
        names.update(value.name for value in self.outputs)
        return names

    def drop_dead(self) -> None:
        """Remove nodes whose results nobody reads, and constants that nobody reads."""
        needed = {value.name for value in self.outputs}
        kept = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(_reads(node))
                kept.append(node)
        self.nodes = kept[::-1]
        used = set(self.used())
        self.constants = {name: v for name, v in self.constants.items() if name in used}

    def _wrapped(self, graph: Any) -> Any:
        opsets = [helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]
        return helper.make_model(graph, opset_imports=opsets, ir_version=self.ir_version)


def _copied(value: Any) -> Any:
    """Copy a part of a message: the part itself would keep the whole model in memory."""
    copied = onnx.ValueInfoProto()
    copied.CopyFrom(value)
    return copied


def extents(value: Any) -> tuple[Any, ...] | None:
    """Return the shape in a ValueInfoProto: integers, names, None; None without a rank."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.dim_value > 0 or _is_zero(dim) else (dim.dim_param or None)
        for dim in value.type.tensor_type.shape.dim
    )


def _is_zero(dim: Any) -> bool:
    return bool(dim.HasField("dim_value")) and dim.dim_value == 0 and not dim.dim_param


def _reads(node: Any) -> Iterator[str]:
    """Names a node reads, those that its sub-graphs take from outside included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
        for graph in graphs:
            for inner in graph.node:
                yield from _reads(inner)
            yield from (value.name for value in graph.output)


def _constant_value(node: Any) -> Array | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return numpy_helper.to_array(value)
    dtypes = {"value_float": "float32", "value_floats": "float32"}
    dtypes.update({"value_int": "int64", "value_ints": "int64"})
    return np.asarray(value, dtypes[attribute.name]) if attribute.name in dtypes else None


def _dense(sparse: Any) -> Array:
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense

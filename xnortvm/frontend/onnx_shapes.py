# SPDX-License-Identifier: Apache-2.0
"""Values of shape computations where the batch is dynamic.

``x.view(x.size(0), -1)`` arrives from ONNX as Shape, Gather, Unsqueeze, Concat, Reshape. The
extents that are numbers become constants; a Reshape keeps the dynamic ones by ONNX's own means: 0
for "as in the input", -1 for the one that follows from the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xnortvm.frontend.onnx_graph import Array, OnnxGraph


class ShapeValues:
    """Integer vectors whose entries are numbers or names of dynamic dimensions."""

    def __init__(self, graph: OnnxGraph) -> None:
        self._graph = graph
        self._values: dict[str, list[Any]] = {}

    def evaluated(self, node: Any) -> dict[str, Array] | None:
        """Return the node's output when it is a shape computation with a known result."""
        rule = _RULES.get(node.op_type)
        value = rule(self, node) if rule is not None else None
        if value is None:
            return None
        name = node.output[0]
        entries = value if isinstance(value, list) else [value]
        if all(isinstance(entry, int) for entry in entries):
            return {name: np.asarray(value, "int64")}
        self._values[name] = value
        return None

    def simplify(self, node: Any) -> None:
        """Give a Reshape a constant target where its value allows it."""
        if node.op_type != "Reshape" or node.input[1] not in self._values:
            return
        data = self._graph.shapes.get(node.input[0], ())
        target = [
            0
            if not isinstance(extent, int) and axis < len(data) and data[axis] == extent
            else extent
            for axis, extent in enumerate(self._values[node.input[1]])
        ]
        open_axes = [axis for axis, extent in enumerate(target) if not isinstance(extent, int)]
        if len(open_axes) > 1 or (open_axes and -1 in target):
            return
        for axis in open_axes:
            target[axis] = -1
        name = f"{node.output[0]}/shape"
        self._graph.constants[name] = np.asarray(target, "int64")
        node.input[1] = name

    def of(self, name: str) -> Any:
        """Return the value of a name as a list or number, None when it is unknown."""
        if name in self._values:
            return self._values[name]
        value = self._graph.constants.get(name)
        return value.tolist() if value is not None and value.dtype.kind == "i" else None

    def shape(self, name: str) -> list[Any] | None:
        """Return the extents of a value when each is a number or has a name."""
        shape = self._graph.shapes.get(name)
        return None if shape is None or None in shape else list(shape)


def _attribute(node: Any, name: str, default: Any) -> Any:
    return next((a.i for a in node.attribute if a.name == name), default)


def _shape(values: ShapeValues, node: Any) -> Any:
    shape = values.shape(node.input[0])
    if shape is None:
        return None
    return shape[_attribute(node, "start", 0) : _attribute(node, "end", len(shape))]


def _size(values: ShapeValues, node: Any) -> Any:
    shape = values.shape(node.input[0])
    if shape is None or not all(isinstance(extent, int) for extent in shape):
        return None
    return int(np.prod(shape, dtype="int64"))


def _gather(values: ShapeValues, node: Any) -> Any:
    data, index = values.of(node.input[0]), values.of(node.input[1])
    if not isinstance(data, list) or index is None or _attribute(node, "axis", 0) != 0:
        return None
    return [data[i] for i in index] if isinstance(index, list) else data[index]


def _slice(values: ShapeValues, node: Any) -> Any:
    data = values.of(node.input[0])
    bounds = [values.of(name) for name in node.input[1:]]
    if not isinstance(data, list) or len(bounds) < 2 or None in bounds:
        return None
    if any(len(bound) != 1 for bound in bounds):
        return None
    step = bounds[3][0] if len(bounds) > 3 else 1
    return data[slice(bounds[0][0], bounds[1][0], step)]


def _concat(values: ShapeValues, node: Any) -> Any:
    parts = [values.of(name) for name in node.input]
    if not all(isinstance(part, list) for part in parts):
        return None
    return [entry for part in parts for entry in part]


def _unsqueeze(values: ShapeValues, node: Any) -> Any:
    data = values.of(node.input[0])
    return None if data is None or isinstance(data, list) else [data]


def _squeeze(values: ShapeValues, node: Any) -> Any:
    data = values.of(node.input[0])
    return data[0] if isinstance(data, list) and len(data) == 1 else None


def _same(values: ShapeValues, node: Any) -> Any:
    return values.of(node.input[0]) if node.input[0] in values._values else None


_RULES: dict[str, Callable[[ShapeValues, Any], Any]] = {
    "Cast": _same,
    "Concat": _concat,
    "Gather": _gather,
    "Identity": _same,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}

# SPDX-License-Identifier: Apache-2.0
"""Our network's operators as OpenVINO's, one function each; images are held as NCHW."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .job import CannotRunError
from .network import Network, Node

# FakeQuantize with two levels gives the lower one for x <= limit. The largest float below zero
# makes 0 a +1; smaller ones, which are not normalised, are rounded to 0 by the CPU.
_BELOW_ZERO = -float(np.finfo(np.float32).tiny)
_LIMITS = {"+1": _BELOW_ZERO, "0": _BELOW_ZERO, "-1": 0.0}

_TO_NCHW = (0, 3, 1, 2)
_AXIS_IN_NCHW = (0, 2, 3, 1)


@dataclass(frozen=True)
class Value:
    """A tensor of the graph; an image is NHWC for us and lies there as NCHW."""

    node: Any
    shape: list[int]
    image: bool


class Graph:
    """Builds OpenVINO's graph of a network."""

    def __init__(self, network: Network) -> None:
        import openvino as ov
        import openvino.opset13 as opset

        self.ov, self.op, self.network = ov, opset, network
        self.values: dict[str, Value] = {}

    def model(self) -> Any:
        """Return the whole network as an ``openvino.Model``."""
        parameters = []
        for node in self.network.inputs:
            parameter = self.op.parameter(node.shape, np.float32, name=node.name)
            parameters.append(parameter)
            self.values[node.name] = Value(parameter, node.shape, image=False)
        for node in self.network.nodes:
            if node.op == "constant":
                continue
            if node.op not in OPERATORS:
                raise CannotRunError(
                    f"OpenVINO's graph has no operator for {node.name} of the network ({node.op})"
                )
            self.values[node.name] = OPERATORS[node.op](self, node)
        results = [self.plain(self.values[name]) for name in self.network.outputs]
        return self.ov.Model(results, parameters, "network")

    def array(self, name: str) -> np.ndarray[Any, Any] | None:
        """Return the value of a constant, None for anything else."""
        return self.network.arrays.get(name)

    def const(self, value: Any) -> Any:
        """Make a float constant."""
        return self.op.constant(np.ascontiguousarray(value, np.float32))

    def image(self, value: Value) -> Any:
        """Return an image as NCHW."""
        if value.image:
            return value.node
        order = self.op.constant(np.array(_TO_NCHW))
        return self.op.transpose(value.node, order)

    def plain(self, value: Value) -> Any:
        """Return a value in the order of our layout."""
        if not value.image:
            return value.node
        if value.shape[1] == value.shape[2] == 1:
            return self.op.reshape(value.node, self.op.constant(np.array(value.shape)), False)
        return self.op.transpose(value.node, self.op.constant(np.array(_AXIS_IN_NCHW)))

    def operand(self, name: str, image: bool) -> Any:
        """Return an operand of an elementwise operator in the layout of its result."""
        constant = self.array(name)
        if constant is None:
            value = self.values[name]
            return self.image(value) if image else self.plain(value)
        if image and constant.ndim:
            constant = constant.reshape((1,) * (4 - constant.ndim) + constant.shape)
            constant = constant.transpose(_TO_NCHW)
        return self.const(constant)


def _elementwise(make: str) -> Callable[[Graph, Node], Value]:
    def build(graph: Graph, node: Node) -> Value:
        image = any(name in graph.values and graph.values[name].image for name in node.inputs)
        operands = [graph.operand(name, image) for name in node.inputs]
        return Value(getattr(graph.op, make)(*operands), node.shape, image)

    return build


def _affine(graph: Graph, node: Node) -> Value:
    image = graph.values[node.inputs[0]].image
    x, scale, shift = (graph.operand(name, image) for name in node.inputs)
    return Value(graph.op.add(graph.op.multiply(x, scale), shift), node.shape, image)


def _prelu(graph: Graph, node: Node) -> Value:
    value, slope = graph.values[node.inputs[0]], graph.array(node.inputs[1])
    assert slope is not None  # one per channel; OpenVINO counts channels as the second axis
    x = value.node if value.image or len(value.shape) == 2 else graph.image(value)
    image = value.image or len(value.shape) == 4
    return Value(graph.op.prelu(x, graph.const(slope.reshape(-1))), node.shape, image)


def _to_nhwc(graph: Graph, node: Node) -> Value:
    return Value(graph.plain(graph.values[node.inputs[0]]), node.shape, image=True)


def _to_nchw(graph: Graph, node: Node) -> Value:
    return Value(graph.image(graph.values[node.inputs[0]]), node.shape, image=False)


def _ends(padding: Sequence[int]) -> tuple[list[int], list[int]]:
    return list(padding[:2]), list(padding[2:])


def _conv2d(graph: Graph, node: Node) -> Value:
    x, weight = graph.image(graph.values[node.inputs[0]]), graph.array(node.inputs[1])
    assert weight is not None
    filters = weight.transpose(_TO_NCHW)
    strides, dilation, groups = (node.attrs[key] for key in ("strides", "dilation", "groups"))
    begin, end = _ends(node.attrs["padding"])
    if groups == 1:
        y = graph.op.convolution(x, graph.const(filters), strides, begin, end, dilation)
    else:
        outputs, *rest = filters.shape
        grouped = graph.const(filters.reshape(groups, outputs // groups, *rest))
        y = graph.op.group_convolution(x, grouped, strides, begin, end, dilation)
    return Value(y, node.shape, image=True)


def _signs(graph: Graph, x: Any, zero: str) -> Any:
    ones = np.ones((1, 1, 1, 1), np.float32)
    limit = graph.const(ones * _LIMITS[zero])
    return graph.op.fake_quantize(x, limit, limit, graph.const(0 * ones), graph.const(ones), 2)


def _bits(graph: Graph, weight: np.ndarray[Any, Any]) -> Any:
    """Weights (O, I, KH, KW) as OpenVINO's u1: bit 1 is +1, lowest bit first."""
    tensor = graph.ov.Tensor(graph.ov.Type.u1, graph.ov.Shape(list(weight.shape)))
    packed = np.packbits((weight.reshape(-1) > 0).astype(np.uint8), bitorder="little")
    tensor.data.reshape(-1)[:] = packed
    return graph.op.constant(tensor)


def _bconv2d(graph: Graph, node: Node) -> Value:
    if node.attrs["groups"] != 1:
        raise CannotRunError(
            f"OpenVINO's BinaryConvolution has no groups, and the layer {node.layer} has "
            f"{node.attrs['groups']}"
        )
    x, weight = graph.image(graph.values[node.inputs[0]]), graph.array(node.inputs[1])
    assert weight is not None
    begin, end = _ends(node.attrs["padding"])
    y = graph.op.binary_convolution(
        _signs(graph, x, node.attrs["zero"]),
        _bits(graph, weight.transpose(_TO_NCHW)),
        node.attrs["strides"],
        begin,
        end,
        node.attrs["dilation"],
        "xnor-popcount",
        float(node.attrs["pad_value"]),
    )
    return Value(y, node.shape, image=True)


def _bdense(graph: Graph, node: Node) -> Value:
    """There is no binary matrix product: a 1×1 convolution of 1×1 images."""
    weight = graph.array(node.inputs[1])
    assert weight is not None
    x = graph.plain(graph.values[node.inputs[0]])
    rows, outputs = node.shape[0], weight.shape[0]
    as_image = graph.op.constant(np.array([rows, weight.shape[1], 1, 1]))
    y = graph.op.binary_convolution(
        _signs(graph, graph.op.reshape(x, as_image, False), node.attrs["zero"]),
        _bits(graph, weight[:, :, None, None]),
        [1, 1],
        [0, 0],
        [0, 0],
        [1, 1],
        "xnor-popcount",
        0.0,
    )
    y = graph.op.reshape(y, graph.op.constant(np.array([rows, outputs])), False)
    return Value(y, node.shape, image=False)


def _pool(kind: str) -> Callable[[Graph, Node], Value]:
    def build(graph: Graph, node: Node) -> Value:
        x, attrs = graph.image(graph.values[node.inputs[0]]), node.attrs
        begin, end = _ends(attrs["padding"])
        rounding = "ceil" if attrs["ceil_mode"] else "floor"
        if kind == "max":
            y = graph.op.max_pool(
                x, attrs["strides"], attrs["dilation"], begin, end, attrs["pool_size"], rounding
            ).output(0)
        else:
            y = graph.op.avg_pool(
                x,
                attrs["strides"],
                begin,
                end,
                attrs["pool_size"],
                not attrs["count_include_pad"],
                rounding,
            )
        return Value(y, node.shape, image=True)

    return build


def _mean(graph: Graph, node: Node) -> Value:
    value, axes = graph.values[node.inputs[0]], [int(axis) for axis in node.attrs["axes"]]
    keep = bool(node.attrs["keepdims"])
    if value.image and not keep and sorted(axis % 4 for axis in axes) != [1, 2]:
        value = Value(graph.plain(value), value.shape, image=False)
    if value.image:
        axes = [_AXIS_IN_NCHW[axis] for axis in axes]
    y = graph.op.reduce_mean(value.node, graph.op.constant(np.array(axes)), keep)
    return Value(y, node.shape, image=value.image and keep)


def _matmul(graph: Graph, node: Node) -> Value:
    a, b = (graph.operand(name, image=False) for name in node.inputs)
    return Value(graph.op.matmul(a, b, False, False), node.shape, image=False)


def _reshape(graph: Graph, node: Node) -> Value:
    shape = graph.op.constant(np.array(node.attrs["shape"]))
    x = graph.plain(graph.values[node.inputs[0]])
    return Value(graph.op.reshape(x, shape, False), node.shape, image=False)


#: From our operators to OpenVINO's.
OPERATORS: dict[str, Callable[[Graph, Node], Value]] = {
    **{op: _elementwise(op) for op in ("add", "subtract", "multiply", "divide")},
    **{op: _elementwise(op) for op in ("maximum", "minimum", "abs", "exp", "sign")},
    **{op: _elementwise(op) for op in ("relu", "sigmoid", "tanh", "negative", "sqrt")},
    "affine": _affine,
    "prelu": _prelu,
    "to_nhwc": _to_nhwc,
    "to_nchw": _to_nchw,
    "conv2d": _conv2d,
    "bconv2d": _bconv2d,
    "bdense": _bdense,
    "max_pool2d": _pool("max"),
    "avg_pool2d": _pool("avg"),
    "mean": _mean,
    "matmul": _matmul,
    "reshape": _reshape,
}

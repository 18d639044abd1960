# SPDX-License-Identifier: Apache-2.0
"""Our network's operators as Keras and Larq layers, one function each; images stay NHWC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .job import CannotRunError
from .network import Network, Node

Array = np.ndarray[Any, Any]

#: Padding of max pools: nothing is smaller.
_LEAST = -3e38
#: Zero padding of float convolutions. The converter turns an exact 0 into TensorFlow's "same"
#: padding, which with strides lies elsewhere; this is lost in rounding.
_NEARLY_ZERO = 1e-30


class Graph:
    """Builds a Keras model of a network.

    Attributes
    ----------
    channels_last : list of bool
        Which inputs the model takes as NHWC where our network takes NCHW.
    """

    def __init__(self, network: Network) -> None:
        import larq
        import tensorflow as tf

        self.tf, self.larq, self.network = tf, larq, network
        self.values: dict[str, Any] = {}
        self.channels_last: list[bool] = []

    def model(self) -> Any:
        """Return the whole network as a ``tf.keras.Model``."""
        inputs = []
        for node in self.network.inputs:
            users = [each for each in self.network.nodes if node.name in each.inputs]
            image = bool(users) and all(each.op == "to_nhwc" for each in users)
            shape = [node.shape[axis] for axis in (0, 2, 3, 1)] if image else node.shape
            value = self.tf.keras.Input(shape[1:], batch_size=shape[0])
            inputs.append(value)
            self.channels_last.append(image)
            self.values[node.name] = value
        for node in self.network.nodes:
            if node.op == "constant":
                continue
            if node.op not in OPERATORS:
                raise CannotRunError(
                    f"Larq's graph has no operator for {node.name} of the network ({node.op})"
                )
            self.values[node.name] = OPERATORS[node.op](self, node)
        outputs = [self.values[name] for name in self.network.outputs]
        return self.tf.keras.Model(inputs, outputs)

    def operand(self, name: str) -> Any:
        """Return a value, or a constant as an array.

        Larq's converter fuses constants with one value for each channel, and then wants them to
        have one dimension.
        """
        constant = self.network.arrays.get(name)
        if constant is None:
            return self.values[name]
        while constant.ndim > 1 and constant.shape[0] == 1:
            constant = constant[0]
        return constant.astype(np.float32)

    def array(self, name: str) -> Array:
        """Return the value of a constant."""
        return self.network.arrays[name]

    def pad(self, x: Any, padding: list[int], value: float) -> Any:
        """Pad an image by (top, left, bottom, right)."""
        if not any(padding):
            return x
        top, left, bottom, right = padding
        amounts = [[0, 0], [top, bottom], [left, right], [0, 0]]
        return self.tf.pad(x, amounts, constant_values=value)


def _elementwise(name: str) -> Callable[[Graph, Node], Any]:
    def build(graph: Graph, node: Node) -> Any:
        function: Any = graph.tf
        for part in name.split("."):
            function = getattr(function, part)
        return function(*(graph.operand(each) for each in node.inputs))

    return build


def _multiply(graph: Graph, node: Node) -> Any:
    x, y = (graph.operand(name) for name in node.inputs)
    if isinstance(y, np.ndarray) and y.ndim > 1 and y.shape[-1] > 1:
        # The converter would take a factor of the whole map for one of the channels and fuse it.
        return graph.tf.negative(x) * -y
    return graph.tf.multiply(x, y)


def _affine(graph: Graph, node: Node) -> Any:
    x, scale, shift = (graph.operand(name) for name in node.inputs)
    return x * scale + shift


def _prelu(graph: Graph, node: Node) -> Any:
    x, slope = graph.operand(node.inputs[0]), graph.array(node.inputs[1])
    axes = list(range(1, len(node.shape) - 1))
    layer = graph.tf.keras.layers.PReLU(shared_axes=axes or None)
    result = layer(x)
    layer.set_weights([slope.reshape([1] * len(axes) + [-1]).astype(np.float32)])
    return result


def _to_nhwc(graph: Graph, node: Node) -> Any:
    if any(each.name == node.inputs[0] for each in graph.network.inputs):
        return graph.values[node.inputs[0]]  # the model takes NHWC
    return graph.tf.transpose(graph.values[node.inputs[0]], [0, 2, 3, 1])


def _conv2d(graph: Graph, node: Node) -> Any:
    layers, attrs = graph.tf.keras.layers, node.attrs
    x, weight = graph.values[node.inputs[0]], graph.array(node.inputs[1])
    x = graph.pad(x, attrs["padding"], _NEARLY_ZERO)
    shared = {"strides": attrs["strides"], "use_bias": False, "dilation_rate": attrs["dilation"]}
    kernel = weight.transpose(1, 2, 3, 0)  # OHWI → HWIO
    if attrs["groups"] == 1:
        layer = layers.Conv2D(len(weight), weight.shape[1:3], **shared)
    elif attrs["groups"] == len(weight) and weight.shape[3] == 1:
        layer, kernel = layers.DepthwiseConv2D(weight.shape[1:3], **shared), kernel.swapaxes(2, 3)
    else:
        raise CannotRunError(
            f"TensorFlow Lite has no grouped convolutions, and {node.layer} has "
            f"{attrs['groups']} groups"
        )
    result = layer(x)
    layer.set_weights([kernel])
    return result


def _binary(graph: Graph, x: Any, weight: Array, zero: str, **options: Any) -> Any:
    """Return a binary convolution; its sign gives +1 at 0, and -sign(-x) gives -1 there."""
    if zero == "-1":
        x, weight = -x, -weight
    layer = graph.larq.layers.QuantConv2D(
        len(weight),
        weight.shape[1:3],
        input_quantizer="ste_sign",
        kernel_quantizer="ste_sign",
        kernel_constraint="weight_clip",
        use_bias=False,
        **options,
    )
    result = layer(x)
    layer.set_weights([weight.transpose(1, 2, 3, 0).astype(np.float32)])
    return result


def _bconv2d(graph: Graph, node: Node) -> Any:
    attrs, weight = node.attrs, graph.array(node.inputs[1])
    if attrs["groups"] != 1:
        raise CannotRunError(
            f"Larq's binary convolution has no groups here, and the layer {node.layer} has "
            f"{attrs['groups']}"
        )
    x, padding = graph.values[node.inputs[0]], attrs["padding"]
    options = {"strides": attrs["strides"], "dilation_rate": attrs["dilation"]}
    reach = [d * (k - 1) for d, k in zip(attrs["dilation"], weight.shape[1:3], strict=True)]
    same = attrs["strides"] == [1, 1] and padding == [r // 2 for r in reach] * 2
    if same and all(r % 2 == 0 for r in reach) and attrs["pad_value"] in (0, 1):
        pad_values = float(attrs["pad_value"])
        return _binary(
            graph, x, weight, attrs["zero"], padding="same", pad_values=pad_values, **options
        )
    # "same" with a stride pads elsewhere than PyTorch does. Padding by a sign, then a convolution
    # without padding; where 0 is meant, what the padding added is taken out again.
    value = float(attrs["pad_value"] or 1)
    padded = graph.pad(x, padding, value)
    y = _binary(graph, padded, weight, attrs["zero"], padding="valid", **options)
    if attrs["pad_value"] or not any(padding):
        return y
    # Negated, because the converter would fuse a map as if it were one number for each channel.
    outside = _outside(weight, [int(d) for d in x.shape[1:3]], node)
    return graph.tf.negative(graph.tf.negative(y) + outside)


def _outside(weight: Array, size: list[int], node: Node) -> Array:
    """Return the sum of the weights that lie in the padding, for each position and channel."""
    attrs = node.attrs
    top, left, bottom, right = attrs["padding"]
    mask = np.ones((size[0] + top + bottom, size[1] + left + right), np.float32)
    mask[top : top + size[0], left : left + size[1]] = 0
    sums = weight.astype(np.float32).sum(axis=3)
    rows, columns = node.shape[1:3]
    total = np.zeros((1, rows, columns, len(weight)), np.float32)
    for i in range(weight.shape[1]):
        for j in range(weight.shape[2]):
            y, x = i * attrs["dilation"][0], j * attrs["dilation"][1]
            part = mask[y :: attrs["strides"][0], x :: attrs["strides"][1]][:rows, :columns]
            total[0] += part[:, :, None] * sums[:, i, j]
    return total


def _bdense(graph: Graph, node: Node) -> Any:
    """Larq's dense layer is not binary on the CPU: a 1×1 convolution of 1×1 images."""
    weight = graph.array(node.inputs[1])
    rows, channels = node.shape[0], weight.shape[1]
    x = graph.tf.reshape(graph.values[node.inputs[0]], [rows, 1, 1, channels])
    y = _binary(graph, x, weight[:, None, None], node.attrs["zero"], padding="valid")
    return graph.tf.reshape(y, node.shape)


def _max_pool(graph: Graph, node: Node) -> Any:
    attrs = node.attrs
    if attrs["ceil_mode"] or attrs["dilation"] != [1, 1]:
        raise CannotRunError(f"Larq's graph has no max pool like {node.name}")
    x = graph.pad(graph.values[node.inputs[0]], attrs["padding"], _LEAST)
    return graph.tf.nn.max_pool2d(x, attrs["pool_size"], attrs["strides"], "VALID")


def _avg_pool(graph: Graph, node: Node) -> Any:
    attrs, x = node.attrs, graph.values[node.inputs[0]]
    even = all(
        int(extent) % stride == 0 and stride == size
        for extent, stride, size in zip(
            x.shape[1:3], attrs["strides"], attrs["pool_size"], strict=True
        )
    )
    if any(attrs["padding"]) or attrs["dilation"] != [1, 1] or (attrs["ceil_mode"] and not even):
        raise CannotRunError(f"Larq's graph has no average pool like {node.name}")
    return graph.tf.nn.avg_pool2d(x, attrs["pool_size"], attrs["strides"], "VALID")


def _mean(graph: Graph, node: Node) -> Any:
    x = graph.values[node.inputs[0]]
    return graph.tf.reduce_mean(x, node.attrs["axes"], keepdims=bool(node.attrs["keepdims"]))


def _reshape(graph: Graph, node: Node) -> Any:
    return graph.tf.reshape(graph.values[node.inputs[0]], node.attrs["shape"])


#: From our operators to functions of TensorFlow and layers of Keras and Larq.
OPERATORS: dict[str, Callable[[Graph, Node], Any]] = {
    **{op: _elementwise(op) for op in ("add", "subtract", "divide")},
    "multiply": _multiply,
    **{op: _elementwise(op) for op in ("maximum", "minimum", "abs", "exp", "sign", "sqrt")},
    **{op: _elementwise(op) for op in ("sigmoid", "tanh", "negative", "matmul")},
    "relu": _elementwise("nn.relu"),
    "affine": _affine,
    "prelu": _prelu,
    "to_nhwc": _to_nhwc,
    "conv2d": _conv2d,
    "bconv2d": _bconv2d,
    "bdense": _bdense,
    "max_pool2d": _max_pool,
    "avg_pool2d": _avg_pool,
    "mean": _mean,
    "reshape": _reshape,
}

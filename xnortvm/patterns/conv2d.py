# SPDX-License-Identifier: Apache-2.0
"""sign → conv2d by ±s weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from xnortvm.graph.dataflow import Values, dtype_of, shape_of, value_of
from xnortvm.patterns.activations import BinaryActivations, binary_activations
from xnortvm.patterns.overflow import overflow
from xnortvm.patterns.reject import Reject
from xnortvm.patterns.weights import BinaryWeights, binary_weights
from xnortvm.patterns.zeros import ZeroPolicy


@dataclass(frozen=True)
class BinaryConv2d:
    """A convolution whose input and weights are both binary.

    Attributes
    ----------
    activations : BinaryActivations
    weights : BinaryWeights
        signs (O, KH, KW, I/groups).
    padding : tuple of int
        Top, left, bottom, right: explicit pad and the convolution's own.
    pad_value : float
        What the padding is worth in units of the sign: 0, +1 or -1.
    """

    activations: BinaryActivations
    weights: BinaryWeights
    padding: tuple[int, int, int, int]
    pad_value: float


def check_conv2d(values: Values, call: Any, policy: ZeroPolicy) -> BinaryConv2d | Reject:
    """Match an NHWC convolution with constant OHWI weights."""
    if str(call.attrs.data_layout) != "NHWC":
        return Reject(
            "its layout is not NHWC", "use NCHW tensors and OIHW weights, as PyTorch does"
        )
    weight = value_of(call.args[1])
    if weight is None:
        return Reject(
            "its weights are computed at run time from the network's input",
            "make the weights a parameter",
        )
    if dtype_of(call.args[0]) != "float32":
        return Reject(f"it computes in {dtype_of(call.args[0])}", "convert the model to float32")
    if shape_of(call.args[0]) is None:
        return Reject("the shape of its input is not static", "export with a fixed input size")
    weights = binary_weights(weight)
    activations = binary_activations(values, call.args[0], policy)
    if isinstance(activations, Reject):
        return activations & weights if isinstance(weights, Reject) else activations
    if isinstance(weights, Reject):
        return weights
    too_large = overflow(prod(weight.shape[1:]), activations)
    if too_large is not None:
        return too_large
    own = tuple(int(p) for p in call.attrs.padding)
    if len(own) != 4:
        own = (own * 4)[:4] if len(own) == 1 else (*own, *own)
    if any(own) and any(activations.padding) and activations.pad_value != 0:
        return Reject(
            "its input is padded with ±1 and again with 0 by the convolution itself",
            "pad once: with padding=0 in the convolution, or without the explicit padding",
        )
    padding = tuple(a + b for a, b in zip(own, activations.padding, strict=True))
    return BinaryConv2d(
        activations,
        weights,
        padding,  # type: ignore[arg-type]
        activations.pad_value if any(activations.padding) else 0.0,
    )

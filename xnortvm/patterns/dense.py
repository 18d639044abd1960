# SPDX-License-Identifier: Apache-2.0
"""sign → linear by ±s weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xnortvm.graph.dataflow import Values, dtype_of, shape_of, value_of
from xnortvm.patterns.activations import BinaryActivations, binary_activations
from xnortvm.patterns.overflow import overflow
from xnortvm.patterns.reject import Reject
from xnortvm.patterns.weights import BinaryWeights, binary_weights
from xnortvm.patterns.zeros import ZeroPolicy


@dataclass(frozen=True)
class BinaryDense:
    """A linear layer whose input and weights are both binary; signs are (O, I)."""

    activations: BinaryActivations
    weights: BinaryWeights


def check_dense(values: Values, call: Any, policy: ZeroPolicy) -> BinaryDense | Reject:
    """Match ``matmul(x, W)`` with constant W (I, O)."""
    weight = value_of(call.args[1])
    if weight is None:
        return Reject(
            "it multiplies two values that both depend on the network's input",
            "a layer is binary when its weights are a parameter",
        )
    if weight.ndim != 2:
        return Reject(
            f"its constant operand has {weight.ndim} dimensions, a linear layer has 2",
            "multiply by each 2-D matrix on its own, or use a convolution with groups",
        )
    if dtype_of(call.args[0]) != "float32":
        return Reject(f"it computes in {dtype_of(call.args[0])}", "convert the model to float32")
    if shape_of(call.args[0]) is None:
        return Reject("the shape of its input is not static", "export with a fixed input size")
    weights = binary_weights(weight.T)
    activations = binary_activations(values, call.args[0], policy)
    if isinstance(activations, Reject):
        return activations & weights if isinstance(weights, Reject) else activations
    if isinstance(weights, Reject):
        return weights
    if any(activations.padding):
        return Reject("its input is a padded sign", "pad with ±1 before the sign instead")
    return overflow(weight.shape[0], activations) or BinaryDense(activations, weights)

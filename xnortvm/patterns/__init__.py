# SPDX-License-Identifier: Apache-2.0
"""What makes a layer binary: one file per pattern, each returning attributes or a `Reject`.

`PATTERNS` is the table that the lowering pass walks: operator name → pattern.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xnortvm.graph.dataflow import Values
from xnortvm.patterns.activations import BinaryActivations, binary_activations
from xnortvm.patterns.conv2d import BinaryConv2d, check_conv2d
from xnortvm.patterns.dense import BinaryDense, check_dense
from xnortvm.patterns.reject import Reject
from xnortvm.patterns.weights import BinaryWeights, binary_weights
from xnortvm.patterns.zeros import ZeroPolicy

#: (who computes what, call, policy for exact zeros) -> match, or why there is none.
Check = Callable[[Values, Any, ZeroPolicy], "BinaryConv2d | BinaryDense | Reject"]

PATTERNS: dict[str, Check] = {
    "relax.nn.conv2d": check_conv2d,
    "relax.matmul": check_dense,
}

__all__ = [
    "PATTERNS",
    "BinaryActivations",
    "BinaryConv2d",
    "BinaryDense",
    "BinaryWeights",
    "Check",
    "Reject",
    "ZeroPolicy",
    "binary_activations",
    "binary_weights",
    "check_conv2d",
    "check_dense",
]

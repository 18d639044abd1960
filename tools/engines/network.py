# SPDX-License-Identifier: Apache-2.0
"""Our matched network in a form that every engine can read: a list of operators and arrays.

Written by `xnortvm.tools.network_export`, read by the engines that assemble their own graph from
it, so that they compute the same layers from the same weights. Images are NHWC.

==============  =========================================  ====================================
operator        inputs                                     attributes
==============  =========================================  ====================================
constant                                                   (its value is in ``arrays``)
to_nhwc         x (N, C, H, W)
to_nchw         x (N, H, W, C)
conv2d          x, weight (O, KH, KW, I) float32           strides, padding, dilation, groups
bconv2d         x, weight (O, KH, KW, I) int8 ±1           the same, and pad_value, zero
bdense          x (M, K), weight (O, K) int8 ±1            zero
max_pool2d      x                                          pool_size, strides, padding,
avg_pool2d      x                                          ceil_mode; count_include_pad
mean            x                                          axes, keepdims
matmul          x, weight (K, O)
prelu           x, slope (C)
affine          x, scale, shift
reshape         x                                          shape
add, multiply, subtract, divide, maximum, minimum: x, y;  relu, sigmoid, tanh, …: x
==============  =========================================  ====================================

The binary operators take the sign of x: −1 for x < 0 (x <= 0 where ``zero`` is "-1"), else +1.
Paddings are (top, left, bottom, right).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_NODES, _ARRAYS = "network.json", "network.npz"


@dataclass(frozen=True)
class Node:
    """One operator.

    Attributes
    ----------
    name : str
        Of its result.
    op : str
        See the table above.
    inputs : list of str
        Names of other nodes.
    shape : list of int
        Of its result.
    attrs : dict
        Numbers, strings and lists of them.
    layer : str
        The layer of the user's model that it comes from, if it is one.
    """

    name: str
    op: str
    inputs: list[str]
    shape: list[int]
    attrs: dict[str, Any] = field(default_factory=dict)
    layer: str = ""


@dataclass
class Network:
    """Operators in order of execution.

    Attributes
    ----------
    inputs : list of Node
        With operator "input".
    nodes : list of Node
    outputs : list of str
    arrays : dict of str to ndarray
        Values of the constants.
    """

    inputs: list[Node] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        text = {
            "inputs": [asdict(node) for node in self.inputs],
            "nodes": [asdict(node) for node in self.nodes],
            "outputs": self.outputs,
        }
        (folder / _NODES).write_text(json.dumps(text))
        np.savez(folder / _ARRAYS, **self.arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, folder: Path) -> Network:
        """Read what `save` wrote."""
        text = json.loads((folder / _NODES).read_text())
        with np.load(folder / _ARRAYS) as stored:
            arrays = dict(stored.items())
        return cls(
            [Node(**node) for node in text["inputs"]],
            [Node(**node) for node in text["nodes"]],
            text["outputs"],
            arrays,
        )

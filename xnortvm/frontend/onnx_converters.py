# SPDX-License-Identifier: Apache-2.0
"""Converters to Relax for ONNX operators that TVM's importer lacks or turns into kernels.

TVM writes some operators as kernels of their own (`call_tir`), which no pass can look into. With
constant arguments, as they are after folding, they are plain Relax operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from xnortvm._tvm import relax
from xnortvm.frontend.constant import constant
from xnortvm.graph.dataflow import dtype_of, shape_of, value_of

Array = np.ndarray[Any, Any]


def _input(inputs: Any, index: int) -> Any:
    """Return an optional input, None when it is left out."""
    values = list(inputs)
    return values[index] if index < len(values) else None


def _numbers(inputs: Any, index: int, default: Any) -> Array | None:
    """Return the value of a constant input, the default when it is left out, None otherwise."""
    arg = _input(inputs, index)
    return np.asarray(default) if arg is None else value_of(arg)


def _celu(inputs: Any, attrs: Any) -> Any:
    """max(0, x) + min(0, α·(exp(x / α) - 1))."""
    x = _input(inputs, 0)
    alpha, zero, one = (
        constant(np.asarray(number, dtype_of(x))) for number in (attrs.get("alpha", 1.0), 0, 1)
    )
    curve = relax.op.subtract(relax.op.exp(relax.op.divide(x, alpha)), one)
    negative = relax.op.minimum(zero, relax.op.multiply(alpha, curve))
    return relax.op.add(relax.op.nn.relu(x), negative)


def _clip(inputs: Any, attrs: Any) -> Any | None:
    low = _numbers(inputs, 1, attrs.get("min", -math.inf))
    high = _numbers(inputs, 2, attrs.get("max", math.inf))
    if low is None or high is None or low.size != 1 or high.size != 1:
        return None
    return relax.op.clip(_input(inputs, 0), low.item(), high.item())


def _pad(inputs: Any, attrs: Any) -> Any | None:
    x, rank = _input(inputs, 0), len(_input(inputs, 0).ty.shape)
    pads = _numbers(inputs, 1, attrs.get("pads"))
    value = _numbers(inputs, 2, attrs.get("value", 0.0))
    axes = _numbers(inputs, 3, range(rank))
    if attrs.get("mode", b"constant") != b"constant" or pads is None or value is None:
        return None
    if axes is None or pads.ndim != 1:
        return None
    width = np.zeros((rank, 2), "int64")
    width[axes % rank] = pads.reshape(2, -1).T
    if (width < 0).any():
        return None
    return relax.op.nn.pad(x, width.reshape(-1).tolist(), "constant", value.item())


def _tile(inputs: Any, attrs: Any) -> Any | None:
    repeats = _numbers(inputs, 1, ())
    if repeats is None or shape_of(_input(inputs, 0)) is None:
        return None
    return relax.op.tile(_input(inputs, 0), repeats.tolist())


def _chained(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    """Make a converter that applies a function of two tensors along all inputs."""

    def convert(inputs: Any, attrs: Any) -> Any | None:
        first, *rest = list(inputs)
        return reduce(function, rest, first) if rest else None

    return convert


CONVERTERS: dict[str, Callable[[Any, Any], Any]] = {
    "Celu": _celu,
    "Clip": _clip,
    "Max": _chained(relax.op.maximum),
    "Min": _chained(relax.op.minimum),
    "Pad": _pad,
    "Tile": _tile,
}
"""Operator to ``converter(inputs, attributes)``, which returns None to leave a case to TVM."""

# SPDX-License-Identifier: Apache-2.0
"""Operators that work on each element by itself: what they compute, and whether they are monotone.

One table serves everyone who must know what a chain of elementwise operators does to a number:
sign canonicalisation (samples the chain), the threshold search (evaluates it on integers), the
layout pass (passes them through) and the fusion pass (puts them into epilogues).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xnortvm._tvm import tirx
from xnortvm.graph.dataflow import op_name

Array = np.ndarray[Any, Any]

#: How a result moves when operand `i` grows: +1, -1, or None when it depends.
Trend = Callable[[int, "list[Array | None]"], "Array | int | None"]


@dataclass(frozen=True)
class Pointwise:
    """What one elementwise operator computes.

    Attributes
    ----------
    fn : callable
        (call attributes, *operands) -> result, in the operands' own precision.
    trend : callable, optional
        (index of the operand that moves, operand values with None for those that are unknown) ->
        +1 where the result never falls as that operand grows, -1 where it never rises; an array
        where that differs per element; None where neither is sure.
    """

    fn: Callable[..., Any]
    trend: Trend | None = None


def _up(_: int, __: list[Array | None]) -> int:
    return 1


def _down(_: int, __: list[Array | None]) -> int:
    return -1


def _subtract(index: int, _: list[Array | None]) -> int:
    return 1 if index == 0 else -1


def _sign_of_other(index: int, operands: list[Array | None]) -> Array | None:
    other = operands[1 - index]
    return None if other is None else np.sign(other)


def _divide(index: int, operands: list[Array | None]) -> Array | None:
    return _sign_of_other(index, operands) if index == 0 else None


def _affine(index: int, operands: list[Array | None]) -> Array | int | None:
    if index == 2:
        return 1
    return None if operands[1] is None or index == 1 else np.sign(operands[1])


def _prelu(index: int, operands: list[Array | None]) -> Array | None:
    slope = operands[1]
    if index != 0 or slope is None:
        return None
    return np.where(slope >= 0, 1.0, np.nan)


def _leaky(_: int, __: list[Array | None]) -> None:
    return None


def fused_multiply_add(x: Array, scale: Array, shift: Array) -> Array:
    """x·scale + shift with one rounding, as the machine's FMA (and PyTorch's batch norm) has it.

    The product of two float32 is exact in float64, so only the sum is rounded there; the second
    rounding to float32 can differ from a true FMA only where it is a tie, and never in sign.
    """
    exact = np.multiply(x, scale, dtype=np.float64) + np.asarray(shift, np.float64)
    return exact.astype(np.float32)


def _broadcast_slope(attrs: Any, x: Array, slope: Array) -> Array:
    if slope.ndim == 1 and x.ndim > 1:
        shape = [1] * x.ndim
        shape[int(attrs.axis) % x.ndim] = slope.shape[0]
        slope = slope.reshape(shape)
    return np.where(x > 0, x, x * slope)


def _erf(x: Array) -> Array:
    import math

    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def _sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-x))).astype(x.dtype)


POINTWISE: dict[str, Pointwise] = {
    "relax.add": Pointwise(lambda _, a, b: np.add(a, b), _up),
    "relax.subtract": Pointwise(lambda _, a, b: np.subtract(a, b), _subtract),
    "relax.multiply": Pointwise(lambda _, a, b: np.multiply(a, b), _sign_of_other),
    "relax.divide": Pointwise(lambda _, a, b: np.divide(a, b), _divide),
    "relax.maximum": Pointwise(lambda _, a, b: np.maximum(a, b), _up),
    "relax.minimum": Pointwise(lambda _, a, b: np.minimum(a, b), _up),
    "relax.power": Pointwise(lambda _, a, b: np.power(a, b)),
    "relax.floor_divide": Pointwise(lambda _, a, b: np.floor_divide(a, b)),
    "relax.negative": Pointwise(lambda _, a: np.negative(a), _down),
    "relax.abs": Pointwise(lambda _, a: np.abs(a)),
    "relax.square": Pointwise(lambda _, a: np.square(a)),
    "relax.sign": Pointwise(lambda _, a: np.sign(a), _up),
    "relax.sqrt": Pointwise(lambda _, a: np.sqrt(a), _up),
    "relax.rsqrt": Pointwise(lambda _, a: (1 / np.sqrt(a)).astype(a.dtype), _down),
    "relax.exp": Pointwise(lambda _, a: np.exp(a), _up),
    "relax.log": Pointwise(lambda _, a: np.log(a), _up),
    "relax.tanh": Pointwise(lambda _, a: np.tanh(a), _up),
    "relax.sigmoid": Pointwise(lambda _, a: _sigmoid(a), _up),
    "relax.erf": Pointwise(lambda _, a: _erf(a), _up),
    "relax.sin": Pointwise(lambda _, a: np.sin(a)),
    "relax.cos": Pointwise(lambda _, a: np.cos(a)),
    "relax.round": Pointwise(lambda _, a: np.round(a), _up),
    "relax.floor": Pointwise(lambda _, a: np.floor(a), _up),
    "relax.ceil": Pointwise(lambda _, a: np.ceil(a), _up),
    "relax.trunc": Pointwise(lambda _, a: np.trunc(a), _up),
    "relax.clip": Pointwise(lambda _, a, lo, hi: np.clip(a, lo, hi), _up),
    "relax.astype": Pointwise(lambda attrs, a: a.astype(str(attrs.dtype)), _up),
    "relax.where": Pointwise(lambda _, c, a, b: np.where(c, a, b)),
    "relax.greater": Pointwise(lambda _, a, b: a > b, _subtract),
    "relax.greater_equal": Pointwise(lambda _, a, b: a >= b, _subtract),
    "relax.less": Pointwise(lambda _, a, b: a < b, lambda i, _: -_subtract(i, _)),
    "relax.less_equal": Pointwise(lambda _, a, b: a <= b, lambda i, _: -_subtract(i, _)),
    "relax.equal": Pointwise(lambda _, a, b: a == b),
    "relax.not_equal": Pointwise(lambda _, a, b: a != b),
    "relax.logical_and": Pointwise(lambda _, a, b: np.logical_and(a, b), _up),
    "relax.logical_or": Pointwise(lambda _, a, b: np.logical_or(a, b), _up),
    "relax.logical_not": Pointwise(lambda _, a: np.logical_not(a), _down),
    "relax.bitwise_and": Pointwise(lambda _, a, b: np.bitwise_and(a, b)),
    "relax.bitwise_or": Pointwise(lambda _, a, b: np.bitwise_or(a, b)),
    "relax.bitwise_xor": Pointwise(lambda _, a, b: np.bitwise_xor(a, b)),
    "relax.bitwise_not": Pointwise(lambda _, a: np.bitwise_not(a)),
    "relax.nn.relu": Pointwise(lambda _, a: np.maximum(a, np.zeros((), a.dtype)), _up),
    "relax.nn.relu6": Pointwise(lambda _, a: np.clip(a, 0, 6).astype(a.dtype), _up),
    "relax.nn.leakyrelu": Pointwise(
        lambda attrs, a: np.where(a > 0, a, a * a.dtype.type(attrs.alpha)), _leaky
    ),
    "relax.nn.prelu": Pointwise(_broadcast_slope, _prelu),
    "relax.nn.silu": Pointwise(lambda _, a: a * _sigmoid(a)),
    "relax.xnortvm.affine": Pointwise(
        lambda _, x, scale, shift: fused_multiply_add(x, scale, shift), _affine
    ),
    "relax.xnortvm.clamp": Pointwise(
        lambda attrs, a: np.clip(a, a.dtype.type(attrs["low"]), a.dtype.type(attrs["high"])), _up
    ),
}

#: Elementwise for layout and fusion, though we never evaluate them on numbers.
OPAQUE_POINTWISE = frozenset(
    {
        "relax.nn.gelu",
        "relax.nn.gelu_tanh",
        "relax.nn.softplus",
        "relax.isnan",
        "relax.atan",
        "relax.sinh",
        "relax.cosh",
        "relax.log2",
        "relax.log10",
        "relax.log1p",
        "relax.mod",
        "relax.floor_mod",
        "relax.xnortvm.sign",
    }
)


def is_pointwise(call: Any) -> bool:
    """Tell whether a call works on each element by itself (operands broadcast)."""
    name = op_name(call)
    return name in POINTWISE or name in OPAQUE_POINTWISE


def scalar_operand(arg: Any) -> Array | None:
    """Return the value of a scalar operand such as clip's bounds, None for tensors."""
    if isinstance(arg, (tirx.IntImm, tirx.FloatImm)):
        return np.asarray(arg.value)
    inner = getattr(arg, "value", None)
    if isinstance(inner, (tirx.IntImm, tirx.FloatImm)):
        return np.asarray(inner.value)
    return None


def apply(call: Any, operands: list[Array]) -> Array:
    """Evaluate one pointwise call on NumPy operands, in the operands' own precision."""
    rule = POINTWISE[op_name(call)]
    with np.errstate(all="ignore"):
        result: Array = np.asarray(rule.fn(call.attrs, *operands))
    floats = [o.dtype for o in operands if o.dtype.kind == "f" and o.ndim]
    if floats and result.dtype == np.float64 and np.float64 not in floats:
        result = result.astype(floats[0])
    return result

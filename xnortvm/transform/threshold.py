# SPDX-License-Identifier: Apache-2.0
"""sign of a function of an accumulator → comparison of the accumulator with an integer.

    bitpack(f(acc))   →   threshold_pack(acc, T, flip):   bit = ((acc xor flip) < T)

f is monotone for each channel (and position), so its sign flips once; the integer at which it does
is found by evaluating the original float expression (`IntegerFunction.flip`), operator by operator
in float32, so that the packed bits are those of PyTorch. Where f falls, flip = -1 reverses the
order of the integers: acc xor -1 = -acc - 1.

A scale that depends on the position, Γ = α ⊗ β ⊗ γ, would need one integer for each channel and
position. There the kernel compares in float,

    bit = ((acc·β_y)·γ_x)·A_c < t_c

with constants that are chosen so that it flips at the same integers everywhere: rounding is part
of what is evaluated, so this is exact too. Products cannot be fused with a comparison, so there is
one way only to evaluate it.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from xnortvm import ops
from xnortvm._tvm import IRModule, relax
from xnortvm.graph.accumulators import ACCUMULATORS, accumulator_bound
from xnortvm.graph.dataflow import Builder, Values, const, op_name, rebuild, variables
from xnortvm.graph.factors import factors_of
from xnortvm.graph.integer_function import Flip, IntegerFunction
from xnortvm.graph.pointwise import Array
from xnortvm.report import Report


class FuseThresholds:
    """The pass: replaces every ``bitpack`` of a monotone function of one accumulator.

    Chains that are not monotone (a PReLU with a negative slope) or that read another value (a
    residual) keep their float expression.

    Parameters
    ----------
    report : Report
        Its rows get a note where a table of thresholds is as large as the output map.
    """

    def __init__(self, report: Report) -> None:
        self.report = report

    def __call__(self, mod: IRModule) -> IRModule:
        """Return the module with thresholds in place of signs."""
        return rebuild(mod, self._visit)

    def _visit(self, builder: Builder, _: Any, call: Any) -> Any:
        if op_name(call) != "relax.xnortvm.bitpack":
            return None
        found = find_threshold(builder, call.args[0], str(call.attrs["zero"]))
        if found is None:
            return None
        groups = int(call.attrs["groups"])
        if not _is_per_position(found.threshold):
            return _integer_pack(found, groups)
        scales = found.function.spatial_scale()
        compared = None if scales is None else factor_threshold(found, factors_of(scales))
        if compared is None:
            self._note(builder, found)
            return _integer_pack(found, groups)
        value = builder.emit(relax.op.astype(found.source, "float32"))
        for factor in compared.factors:
            value = builder.emit(relax.op.multiply(value, const(factor)))
        below = builder.emit(relax.op.less(value, const(compared.limit)))
        minus, plus = (const(np.asarray(v, np.float32)) for v in (-1, 1))
        return ops.bitpack(builder.emit(relax.op.where(below, minus, plus)), groups=groups)

    def _note(self, values: Values, found: Threshold) -> None:
        row = self.report.row(_layer_of(values, found.source))
        if row is not None:
            sizes = "×".join(str(dim) for dim in found.threshold.shape if dim != 1)
            row.note += "; " if row.note else ""
            row.note += (
                f"its scale depends on channel and position and is no outer product, so the next "
                f"sign needs a table of {sizes} thresholds"
            )


class Threshold(NamedTuple):
    """``(source ^ flip) < threshold`` is the bit; both int32, broadcastable to the source."""

    source: Any
    threshold: Array
    flip: Array
    function: IntegerFunction
    bound: int


def find_threshold(values: Values, var: Any, zero: str) -> Threshold | None:
    """Find the integers at which the bit of a value changes; None when it is no threshold.

    Parameters
    ----------
    values : Values
        Who computes what.
    var : Var
        The float value whose sign is packed.
    zero : {"+1", "-1", "0"}
        What its sign is at 0; a ternary sign counts as +1.
    """
    function = IntegerFunction.of(values, var)
    if function is None or not function.chain:
        return None
    bound = accumulator_bound(values, function.source)
    found = None if bound is None else function.flip(bound)
    if bound is None or found is None:
        return None
    threshold, flip = (_collapse(array) for array in encode(found, bound, zero))
    return Threshold(function.source, threshold, flip, function, bound)


def encode(found: Flip, bound: int, zero: str) -> tuple[Array, Array]:
    """Turn a change of sign into (T, flip), both int32.

    The bit is 1 where the sign is -1: f < 0, and f = 0 too when sign(0) is -1.
    """
    # Rising: negative below `first`; f = 0 on [first, first_strict).
    rising = found.first_strict if zero == "-1" else found.first
    # Falling: negative from `first_strict` on; f = 0 on [first, first_strict).
    falling = found.first if zero == "-1" else found.first_strict
    # n >= t  ⇔  -n - 1 < -t  ⇔  (n xor -1) < -t
    threshold = np.where(found.rising, rising, -falling)
    limit = bound + 2
    threshold = np.clip(threshold, -limit, limit).astype(np.int32)
    return threshold, np.where(found.rising, 0, -1).astype(np.int32)


class FloatThreshold(NamedTuple):
    """``source·factors[0]·factors[1]⋯ < limit`` is the bit; all float32."""

    factors: list[Array]
    limit: Array


#: Scales A_c that are tried, in units of the sign: each rounds the products in its own way.
_SCALES = np.float32(1) + np.arange(64, dtype=np.float32) / 64


def factor_threshold(found: Threshold, factors: list[Array]) -> FloatThreshold | None:
    """Write a table of thresholds as a comparison of products; None where that is not exact.

    Products are monotone in the accumulator, so four integers decide about a channel and
    position: the two ends of its range, and those on both sides of the change. A channel is exact
    when all products with bit 1 are smaller than all with bit 0.

    Parameters
    ----------
    found : Threshold
        Per channel and position.
    factors : list of ndarray
        Outer factors of the scale; those without a position are left out, since they only move
        the limit.
    """
    spatial = [factor for factor in factors if _is_per_position(factor)]
    if not spatial or sum(factor.size for factor in spatial) * 2 > found.threshold.size:
        return None
    threshold, flip = np.broadcast_arrays(found.threshold, found.flip)
    first = np.where(flip == 0, threshold, -threshold)  # the smallest n behind the change
    ends = [np.full_like(first, -found.bound), np.full_like(first, found.bound)]
    n = np.clip(np.stack([*ends, first - 1, first]), *ends).astype(np.int32)
    bits = (n ^ flip) < threshold
    position = reduce(np.multiply, (np.sign(factor) for factor in spatial))
    changes = bits[0] != bits[1]
    sign = _per_channel(np.where(flip == 0, 1, -1) * position * changes)
    if sign is None:
        return None
    limit = np.zeros(sign.shape, np.float32)
    scale = np.zeros(sign.shape, np.float32)
    open_ = np.ones(sign.shape[-1], bool)
    for tried in _SCALES:
        rest = np.flatnonzero(open_)
        chosen = _ordered([*spatial, (sign * tried)[..., rest]])
        products = reduce(np.multiply, chosen, n[..., rest].astype(np.float32))
        axes = tuple(range(products.ndim - 1))
        low = np.where(bits[..., rest], products, -np.inf).max(axis=axes)
        high = np.where(bits[..., rest], np.inf, products).min(axis=axes)
        exact = low < high
        done = rest[exact]
        scale[..., done] = sign[..., done] * tried
        limit[..., done] = np.clip(high, -3e38, 3e38)[exact]
        open_[done] = False
        if not open_.any():
            return FloatThreshold(_ordered([*spatial, scale]), limit)
    return None


def _ordered(factors: list[Array]) -> list[Array]:
    """Largest last axis last: the order that `fold_affine` keeps."""
    return sorted(factors, key=lambda factor: factor.shape[-1])


def _per_channel(signs: Array) -> Array | None:
    """The one sign that each channel has wherever it is not 0; None if a channel has both."""
    axes = tuple(range(signs.ndim - 1))
    high, low = signs.max(axis=axes, keepdims=True), signs.min(axis=axes, keepdims=True)
    if ((high > 0) & (low < 0)).any():
        return None
    return np.where(high > 0, 1, np.where(low < 0, -1, 1)).astype(np.float32)


def _is_per_position(value: Array) -> bool:
    return any(dim != 1 for dim in value.shape[:-1])


def _collapse(value: Array) -> Array:
    """Drop the axes along which nothing changes."""
    for axis in range(value.ndim):
        first = value.take([0], axis)
        if (value == first).all():
            value = first
    return value


def _integer_pack(found: Threshold, groups: int) -> Any:
    return ops.threshold_pack(
        found.source, const(found.threshold), const(found.flip), groups=groups
    )


def _layer_of(values: Values, var: Any) -> str:
    """Name of the binary layer whose accumulator an integer is made of."""
    pending = [var]
    while pending:
        expr = values.value.get(pending.pop())
        if expr is None:
            continue
        if op_name(expr) in ACCUMULATORS:
            return str(expr.attrs["layer"])
        pending += variables(expr)
    return ""

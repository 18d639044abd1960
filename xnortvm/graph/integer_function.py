# SPDX-License-Identifier: Apache-2.0
"""What a chain of elementwise operators makes of an integer accumulator.

Between the accumulator of a binary layer and the next sign there are only constants: scales,
biases, batch norm, PReLU. For each channel (and position) that chain is a function of one integer,
f(n). `IntegerFunction` evaluates it in float32, operator by operator, as PyTorch does, knows where
it is monotone, and finds the integer at which its sign flips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xnortvm._tvm import relax
from xnortvm.graph.dataflow import Values, dtype_of, op_name, shape_of, value_of
from xnortvm.graph.pointwise import POINTWISE, Array, apply, scalar_operand


@dataclass(frozen=True)
class Flip:
    """Where a monotone function of an integer changes sign.

    Attributes
    ----------
    first : ndarray of int64
        Smallest n in [-bound, bound + 1] with f(n) ≥ 0 where f rises, with f(n) ≤ 0 where f falls
        (bound + 1 when there is none).
    first_strict : ndarray of int64
        The same for f(n) > 0, respectively f(n) < 0. f is exactly 0 from `first` up to here.
    rising : ndarray of bool
    """

    first: Array
    first_strict: Array
    rising: Array


class IntegerFunction:
    """f(n): the value of a variable as a function of an integer accumulator.

    Parameters
    ----------
    values : Values
        Who computes what.
    var : Var
        The float value.
    """

    def __init__(self, source: Any, chain: list[tuple[Any, Any]], shape: tuple[int, ...]) -> None:
        self.source = source
        self.chain = chain
        self.shape = shape

    @classmethod
    def of(cls, values: Values, var: Any) -> IntegerFunction | None:
        """Find the accumulator that alone determines a value; None when there is none."""
        chain: dict[Any, Any] = {}
        sources: dict[Any, None] = {}
        pending = [var]
        while pending:
            current = pending.pop()
            if current in chain or current in sources:
                continue
            if dtype_of(current) == "int32":
                sources[current] = None
                continue
            call = values.value.get(current)
            if call is None or op_name(call) not in POINTWISE:
                return None
            chain[current] = call
            pending += [arg for arg in call.args if isinstance(arg, relax.Var)]
        if len(sources) != 1:
            return None
        source = next(iter(sources))
        full = shape_of(source)
        order = [(v, e) for v, e in values.value.items() if v in chain]
        shape: tuple[int, ...] = (1,) * len(full or ())
        for _, call in order:
            for arg in call.args:
                if isinstance(arg, relax.Var):
                    continue
                known = _constant(arg)
                if known is None or known.ndim > len(shape):
                    return None
                shape = np.broadcast_shapes(shape, known.shape)
        if full is None or any(shape_of(v) != full for v, _ in order):
            return None
        return cls(source, order, shape)

    def __call__(self, n: Array) -> Array:
        """Evaluate f on integers; `n` broadcasts against the chain's constants."""
        known = {self.source: np.asarray(n, np.int32)}
        last = known[self.source]
        for var, call in self.chain:
            operands = [
                known[arg] if isinstance(arg, relax.Var) else _constant(arg) for arg in call.args
            ]
            last = known[var] = apply(call, operands)  # type: ignore[arg-type]
        return last

    def spatial_scale(self) -> Array | None:
        """Product of the scales that depend on the position, None when there is none."""
        product: Array | None = None
        for _, call in self.chain:
            if op_name(call) not in ("relax.multiply", "relax.xnortvm.affine"):
                continue
            for arg in call.args[:2]:
                value = _constant(arg)
                if value is not None and any(dim != 1 for dim in value.shape[:-1]):
                    value = value.reshape((1,) * (len(self.shape) - value.ndim) + value.shape)
                    product = value if product is None else product * value
        return product

    def trend(self) -> Array | None:
        """+1 where f never falls, -1 where it never rises, 0 where it is constant.

        None when an operator of the chain has no trend at all; NaN where one channel has none.
        """
        trends: dict[Any, Array] = {self.source: np.ones((), np.float64)}
        last = trends[self.source]
        for var, call in self.chain:
            if not any(arg in trends for arg in call.args if isinstance(arg, relax.Var)):
                continue
            if op_name(call) == "relax.nn.leakyrelu":
                last = trends[var] = trends[call.args[0]] * (
                    1.0 if float(call.attrs.alpha) >= 0 else np.nan
                )
                continue
            rule = POINTWISE[op_name(call)].trend
            if rule is None:
                return None
            constants = [_slope_shaped(call, i, len(self.shape)) for i in range(len(call.args))]
            parts = []
            for i, arg in enumerate(call.args):
                if isinstance(arg, relax.Var) and arg in trends:
                    moved = rule(i, constants)
                    if moved is None:
                        return None
                    parts.append(np.multiply(trends[arg], moved))
            last = trends[var] = _together(parts)
        return np.broadcast_to(last, self.shape)

    def flip(self, bound: int) -> Flip | None:
        """Find by bisection where f changes sign within [-bound, bound]; None if not monotone.

        f is evaluated about 2·log₂(2·bound) times for every channel and position at once.
        """
        trend = self.trend()
        if trend is None:
            return None
        # A NaN in the constants makes f NaN everywhere, and a NaN counts as positive.
        ends = np.stack([self(np.full(self.shape, n)) for n in (-bound, 0, 1, bound)])
        lost = np.isnan(ends)
        dead = lost.all(axis=0)
        if (lost.any(axis=0) & ~dead).any() or (np.isnan(trend) & ~dead).any():
            return None
        rising = ~(trend < 0) | dead
        orient = np.where(rising, 1.0, -1.0)
        first = self._bisect(lambda f: (f * orient >= 0) | dead, bound)
        strict = self._bisect(lambda f: (f * orient > 0) | dead, bound)
        return Flip(first, strict, rising)

    def _bisect(self, holds: Any, bound: int) -> Array:
        """Smallest n in [-bound, bound + 1] from which a monotone predicate of f(n) holds."""
        low = np.full(self.shape, -bound, np.int64)
        high = np.full(self.shape, bound + 1, np.int64)
        while (low < high).any():
            middle = (low + high) // 2
            yes = holds(self(middle))
            open_ = low < high
            high = np.where(open_ & yes, middle, high)
            low = np.where(open_ & ~yes, middle + 1, low)
        return low


def _constant(arg: Any) -> Array | None:
    scalar = scalar_operand(arg)
    return value_of(arg) if scalar is None else scalar


def _slope_shaped(call: Any, index: int, ndim: int) -> Array | None:
    """A constant operand shaped to broadcast; PReLU keeps its slopes in one dimension."""
    value = None if isinstance(call.args[index], relax.Var) else _constant(call.args[index])
    if value is not None and op_name(call) == "relax.nn.prelu" and value.ndim == 1:
        shape = [1] * ndim
        shape[int(call.attrs.axis) % ndim] = value.size
        return value.reshape(shape)
    return value


def _together(parts: list[Array]) -> Array:
    """The trend of an operator several of whose operands move: theirs, where they agree."""
    total = parts[0]
    for part in parts[1:]:
        total, part = np.broadcast_arrays(total, part)
        total = np.where(
            (total == 0) | (part == 0) | (total == part), np.where(total == 0, part, total), np.nan
        )
    return total

# SPDX-License-Identifier: Apache-2.0
"""Random values of a network's variables, to see which single values occur on purpose.

Each variable gets `COUNT` random draws of one position, all channels of it: an array of shape
(COUNT, 1, ..., 1, C). Elementwise operators are evaluated on the draws; pools mix two of them;
convolutions of continuous values give new random numbers. What is exactly 0 in a draw is 0 with
positive probability: the 0 of a ReLU, the average of +1 and -1, the sum of two accumulators.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from xnortvm._tvm import ir, relax
from xnortvm.graph.accumulators import ACCUMULATORS
from xnortvm.graph.dataflow import Values, dtype_of, op_name, shape_of, value_of
from xnortvm.graph.pointwise import POINTWISE, Array, apply, scalar_operand
from xnortvm.ops import reference

#: Draws per variable.
COUNT = 256

#: Share of the draws, one in so many, in which something possible is made to happen.
_SOME = 8

_EXTREMES = {
    "relax.nn.max_pool2d": np.maximum,
    "relax.max": np.maximum,
    "relax.min": np.minimum,
}
_AVERAGES = frozenset(
    {
        "relax.nn.avg_pool2d",
        "relax.nn.adaptive_avg_pool2d",
        "relax.mean",
        "relax.sum",
    }
)
_LAYERS = frozenset({"relax.nn.conv2d", "relax.matmul"})
_SUMS = frozenset({"relax.xnortvm.bsum2d"})


def samples_of(values: Values, var: Any, known: dict[Any, Array]) -> Array:
    """Return random values that a variable can take.

    Parameters
    ----------
    values : Values
        Who computes what.
    var : Var
    known : dict
        From variable to its samples; the call adds those that it computes.

    Returns
    -------
    ndarray (COUNT, 1, ..., 1, C)
        Of the variable's rank, at least 2. The same for every run.
    """
    pending = [var]
    while pending:
        current = pending[-1]
        needed = [arg for arg in _tensors(values.value.get(current)) if arg not in known]
        if current in known or not needed:
            pending.pop()
            if current not in known:
                known[current] = _draw(values, current, known)
        else:
            pending += needed
    return known[var]


def _tensors(expr: Any) -> list[Any]:
    """Variables whose samples a binding needs; a layer starts anew."""
    if isinstance(expr, relax.TupleGetItem):
        return _tensors(expr.tuple_value)
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.Tuple):
        return [var for each in expr.fields for var in _tensors(each)]
    if isinstance(expr, ir.Call) and op_name(expr) not in ACCUMULATORS | _SUMS:
        return [var for arg in expr.args for var in _tensors(arg)]
    return []


class _Draw:
    """Random numbers for one variable, in the shape of its samples."""

    def __init__(self, var: Any) -> None:
        self.rng = np.random.default_rng(zlib.crc32(str(var.name).encode()))
        dims = shape_of(var) or (1,)
        self.dims = (1,) * (2 - len(dims)) + dims
        self.shape = (COUNT, *(1,) * (len(self.dims) - 2), self.dims[-1])

    def continuous(self) -> Array:
        """Numbers of both signs and many magnitudes, none so large that exp(-x) vanishes."""
        size = np.exp(self.rng.uniform(np.log(1e-2), np.log(30), self.shape))
        return (size * self.rng.choice([-1, 1], self.shape)).astype(np.float32)

    def some(self) -> Array:
        """A random share of all entries."""
        return self.rng.random(self.shape) < 1 / _SOME

    def rearranged(self, samples: Array) -> Array:
        """Draws of a value that moved: with its channels where their number is the same."""
        if samples.shape[-1] == self.shape[-1]:
            rows = self.rng.permutation(COUNT)
            return samples.reshape(COUNT, -1)[rows].reshape(self.shape)
        return self.rng.choice(samples.reshape(-1), self.shape)

    def constant(self, value: Array) -> Array:
        """Draws of a constant: the values at random positions, some at each of its zeros."""
        value = value.reshape((1,) * (len(self.dims) - value.ndim) + value.shape)
        lead = value.shape[:-1]
        if all(dim == 1 for dim in lead):
            return value.reshape((1,) * (len(self.shape) - 1) + value.shape[-1:])
        flat = value.reshape(-1, value.shape[-1])
        rows = self.rng.integers(len(flat), size=COUNT)
        zeros = np.flatnonzero((flat == 0).any(axis=1))
        if zeros.size:
            rows[::_SOME] = self.rng.choice(zeros, rows[::_SOME].size)
        return flat[rows].reshape(COUNT, *(1,) * (len(self.shape) - 2), -1)


def _draw(values: Values, var: Any, known: dict[Any, Array]) -> Array:
    expr = values.value.get(var)
    draw = _Draw(var)
    if expr is None:
        if dtype_of(var).startswith("float"):
            return np.where(draw.some(), np.float32(0), draw.continuous())
        return draw.rng.integers(-2, 3, draw.shape)
    name = op_name(expr)
    inputs = [known[arg] for arg in _tensors(expr)]
    if name in ACCUMULATORS:
        return _accumulator(expr, draw)
    if name == "relax.xnortvm.bsum2d":
        return draw.rng.integers(-4, 5, draw.shape).astype(np.float32)
    if name == "relax.xnortvm.sign":
        return reference.sign(inputs[0], str(expr.attrs["zero"]))
    if name in POINTWISE:
        return _pointwise(expr, draw, known)
    if name in _LAYERS:
        return _layer(expr, draw, inputs)
    if name in _EXTREMES:
        return _EXTREMES[name](draw.rearranged(inputs[0]), draw.rearranged(inputs[0]))
    if name in _AVERAGES:
        return (draw.rearranged(inputs[0]) + draw.rearranged(inputs[0])) / np.float32(2)
    if name == "relax.nn.pad":
        padded = np.float32(float(expr.attrs.pad_value))
        return np.where(draw.some(), padded, draw.rearranged(inputs[0]))
    if name == "relax.concat" and sum(i.shape[-1] for i in inputs) == draw.shape[-1]:
        return np.concatenate([i.reshape(*draw.shape[:-1], -1) for i in inputs], axis=-1)
    if not inputs or not dtype_of(var).startswith("float"):
        return draw.continuous()
    moved = draw.rng.choice(np.concatenate([i.reshape(-1) for i in inputs]), draw.shape)
    same = name in _MOVES or not name
    return (
        draw.rearranged(inputs[0])
        if same and len(inputs) == 1
        else np.where(draw.some(), moved, draw.continuous())
    )


_MOVES = frozenset(
    {
        "relax.reshape",
        "relax.permute_dims",
        "relax.strided_slice",
        "relax.expand_dims",
        "relax.squeeze",
        "relax.broadcast_to",
        "relax.take",
        "relax.split",
    }
)


def _accumulator(call: Any, draw: _Draw) -> Array:
    """Small integers: those that can cancel."""
    base = (
        value_of(call.args[2]) if len(call.args) > 2 else np.full((1, 1, 1), call.attrs["channels"])
    )
    small = draw.rng.integers(-4, 5, draw.shape)
    if base is not None and base.shape[:2] == (1, 1):
        small = 2 * small + base[0, 0] % 2
    return small.astype(np.int32)


def _pointwise(call: Any, draw: _Draw, known: dict[Any, Array]) -> Array:
    operands = []
    for arg in call.args:
        if isinstance(arg, relax.Var):
            drawn = known[arg]
            rank = (1,) * (len(draw.shape) - drawn.ndim)
            operands.append(drawn.reshape(COUNT, *rank, *drawn.shape[1:]))
            continue
        value = scalar_operand(arg)
        if value is None:
            value = value_of(arg)
            assert value is not None
            if op_name(call) == "relax.nn.prelu" and value.ndim == 1:
                axis = int(call.attrs.axis) % len(draw.dims)
                value = value.reshape([-1 if i == axis else 1 for i in range(len(draw.dims))])
            value = draw.constant(value)
        operands.append(value)
    return np.broadcast_to(apply(call, operands), draw.shape)


def _layer(call: Any, draw: _Draw, inputs: list[Array]) -> Array:
    """A float layer: new numbers, unless it adds up few different ones (signs, say)."""
    weight = value_of(call.args[1])
    if weight is None:
        return draw.continuous()
    rows = weight.reshape(len(weight), -1) if op_name(call) != "relax.matmul" else weight.T
    dead = ~rows.reshape(len(rows), -1).any(axis=1)
    x = inputs[0].reshape(-1)
    if rows.ndim != 2 or np.unique(x).size > x.size // 2:
        fresh = draw.continuous()
        if (x == 0).any():  # black pixels, outputs of a ReLU: some windows hold nothing else
            fresh[::_SOME] = 0
        return np.where(dead, np.float32(0), fresh) if dead.size == draw.shape[-1] else fresh
    window = draw.rng.choice(x, (COUNT, rows.shape[1]))
    return (window @ rows.T).reshape(draw.shape).astype(np.float32)

# SPDX-License-Identifier: Apache-2.0
"""torch.sign(0) = 0: can the argument of a sign be exactly zero, and does it happen on purpose?

A continuous value is exactly zero with probability zero; a value behind a ReLU, a clamp or an
integer accumulator is not. Behind one binary layer the question is answered exactly, integer by
integer. Everywhere else `xnortvm.graph.samples` evaluates the network on random numbers: a zero
that it meets happens on purpose, because random numbers do not cancel by chance.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xnortvm._tvm import ir
from xnortvm.graph.accumulators import accumulator_bound, accumulator_parity
from xnortvm.graph.dataflow import Values, op_name, variables
from xnortvm.graph.integer_function import IntegerFunction
from xnortvm.graph.pointwise import Array
from xnortvm.graph.samples import samples_of

#: Accumulator values times channels and positions that are evaluated one by one.
_ENUMERABLE = 1 << 24


@dataclass(frozen=True)
class ZeroPolicy:
    """What to do with a torch.sign whose argument can be exactly 0.

    Attributes
    ----------
    accept : bool
        `sign_zero="+1"`: take 0 as +1 even where zeros happen on purpose.
    samples : dict
        Random values of the variables seen so far; see `xnortvm.graph.samples`.
    """

    accept: bool = False
    samples: dict[Any, Array] = field(default_factory=dict, compare=False, repr=False)


def structural_zero(
    values: Values, var: Any, samples: dict[Any, Array] | None = None
) -> str | None:
    """Say why a value can be exactly 0 on purpose; None when it is 0 with probability 0.

    Parameters
    ----------
    values : Values
        Who computes what, binary layers already lowered to integer accumulators.
    var : Var
        The argument of a sign.
    samples : dict, optional
        Random values already known, extended by the call.
    """
    grid = IntegerFunction.of(values, var)
    if grid is not None:
        zero = _zeros_on_grid(values, grid)
        if zero is not None:
            return _said(*zero) if zero[1].any() else None
    drawn = samples_of(values, var, {} if samples is None else samples)
    zeros = (drawn == 0).reshape(-1, drawn.shape[-1]).any(axis=0)
    if not zeros.any():
        return None
    where = "" if zeros.all() else f" in {int(zeros.sum())} of {zeros.size} channels"
    return f"{_origin(values, var)}{where}"


def _zeros_on_grid(values: Values, grid: IntegerFunction) -> tuple[Array, Array] | None:
    """(an integer, whether f is 0 there), per channel and position; None if there are too many."""
    bound = accumulator_bound(values, grid.source)
    parity = accumulator_parity(values, grid.source)
    if bound is None:
        return None
    flip = grid.flip(bound)
    if flip is not None:
        n = flip.first if parity is None else flip.first + (flip.first - parity) % 2
        return n, (n < flip.first_strict) & (n <= bound)
    if (2 * bound + 1) * int(np.prod(grid.shape)) > _ENUMERABLE:
        return None
    place = np.zeros(grid.shape, np.int64)
    found = np.zeros(grid.shape, bool)
    for n in range(-bound, bound + 1):
        here = (grid(np.full(grid.shape, n)) == 0) & ~found
        here &= True if parity is None else (n - parity) % 2 == 0
        place[here], found = n, found | here
    return place, found


def _said(n: Array, zero: Array) -> str:
    n, zero = np.broadcast_arrays(n, zero)
    place = np.unravel_index(int(np.argmax(zero)), zero.shape)
    return (
        f"the integer accumulator {int(n[place])} of the binary layer before gives exactly 0 "
        f"in output channel {int(place[-1])} ({int(zero.sum())} of {zero.size} "
        "channels and positions)"
    )


def _origin(values: Values, var: Any) -> str:
    """Name the nearest operator that makes zeros on purpose."""
    pending, seen = deque([var]), set()
    while pending:
        current = pending.popleft()
        if current in seen:
            continue
        seen.add(current)
        expr = values.value.get(current)
        if expr is None:
            return f"the network's input {current.name} may hold zeros"
        text = _ORIGINS.get(op_name(expr))
        if text is not None:
            return text
        if not isinstance(expr, ir.Call) or op_name(expr) not in _LAYERS:
            pending += variables(expr)
    return "it is 0 for some of all random inputs"


#: Operators that create zeros: they send an interval, or many combinations, to one value.
_ORIGINS = {
    "relax.nn.relu": "it comes from a ReLU, whose output is 0 for every negative input",
    "relax.nn.relu6": "it comes from a ReLU6, whose output is 0 for every negative input",
    "relax.clip": "it comes from a clamp, whose bounds occur on purpose",
    "relax.nn.pad": "it is padded with zeros before the sign",
    "relax.xnortvm.sign": "it adds up or averages signs, which cancel",
    "relax.xnortvm.bconv2d": "it adds up integers of binary layers, which cancel",
    "relax.xnortvm.bdense": "it adds up integers of binary layers, which cancel",
    "relax.round": "it is rounded to integers",
    "relax.floor": "it is rounded to integers",
    "relax.ceil": "it is rounded to integers",
    "relax.trunc": "it is rounded to integers",
    "relax.where": "it is selected from values some of which are 0",
    "relax.nn.conv2d": "a layer before it has output channels whose weights are all 0",
    "relax.matmul": "a layer before it has output channels whose weights are all 0",
}
_LAYERS = frozenset({"relax.nn.conv2d", "relax.matmul"})

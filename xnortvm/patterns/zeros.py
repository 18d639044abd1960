# SPDX-License-Identifier: Apache-2.0
"""torch.sign(0) = 0: can the argument of a sign be exactly zero, and does it happen on purpose?

Values fall into a continuous part, which is exactly zero with probability zero, and *atoms*:
single values that occur with positive probability, such as the 0 behind a ReLU. Atoms are
followed through the operators: a batch norm moves the 0 of a ReLU elsewhere, max-pooling keeps
it, adding a continuous value dissolves it. Behind a binary layer a value lives on an integer
grid, and the integers that give 0 can be found exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xnortvm._tvm import relax
from xnortvm.graph.dataflow import Values, op_name, value_of
from xnortvm.graph.integer_function import IntegerFunction
from xnortvm.graph.pointwise import POINTWISE, Array, apply, scalar_operand

#: Operators that only choose among their operands' values, or move them.
_MOVES = frozenset(
    {
        "relax.nn.max_pool2d",
        "relax.reshape",
        "relax.permute_dims",
        "relax.strided_slice",
        "relax.nn.avg_pool2d",
        "relax.nn.adaptive_avg_pool2d",
        "relax.mean",
        "relax.concat",
        "relax.max",
    }
)

#: A set of atoms larger than this is dense enough to count as continuous.
_MANY = 16


@dataclass(frozen=True)
class ZeroPolicy:
    """What to do with a torch.sign whose argument can be exactly 0.

    Attributes
    ----------
    accept : bool
        `sign_zero="+1"`: take 0 as +1 even where zeros happen on purpose.
    """

    accept: bool = False


@dataclass(frozen=True)
class Atom:
    """A value with positive probability: one number, or one for each channel."""

    value: Array
    origin: str


def structural_zero(values: Values, var: Any) -> str | None:
    """Say why a value can be exactly 0 on purpose; None when it is 0 with probability 0.

    Parameters
    ----------
    values : Values
        Who computes what, binary layers already lowered to integer accumulators.
    var : Var
        The argument of a sign.
    """
    grid = IntegerFunction.of(values, var)
    if grid is not None:
        return _zero_on_grid(values, grid)
    for atom in _atoms(values, var, {}):
        zeros = int((atom.value == 0).sum())
        if zeros:
            where = f" in {zeros} of {atom.value.size} channels" if atom.value.size > 1 else ""
            return f"{atom.origin}{where}"
    return None


def _zero_on_grid(values: Values, grid: IntegerFunction) -> str | None:
    call = values.value[grid.source]
    bound = accumulator_bound(values, call)
    flip = grid.flip(bound)
    if flip is None:
        return None
    n = flip.first
    parity = _parity(call)
    if parity is not None:
        n = n + (n - parity) % 2
    reached = (n < flip.first_strict) & (n <= bound)
    if not reached.any():
        return None
    place = np.unravel_index(int(np.argmax(reached)), reached.shape)
    return (
        f"the integer accumulator {int(n[place])} of the binary layer before gives exactly 0 "
        f"in output channel {int(place[-1])} ({int(reached.sum())} of {reached.size} "
        "channels and positions)"
    )


def accumulator_bound(values: Values, call: Any) -> int:
    """Largest magnitude of a binary layer's accumulator: its number of products."""
    attrs = call.attrs
    channels = int(attrs["channels"])
    if op_name(call) == "relax.xnortvm.bconv2d":
        weights = value_of(call.args[1])
        base = value_of(call.args[2])
        assert weights is not None and base is not None
        _, kh, kw, _ = weights.shape
        terms = kh * kw * channels // int(attrs["groups"])
        # An integer offset of the activations is part of the table.
        return int(max(terms, np.abs(base).max(), np.abs(base - 2 * terms).max()))
    return channels


def _parity(call: Any) -> Array | None:
    """Parity that every accumulator of an output channel has; None where borders differ."""
    if op_name(call) == "relax.xnortvm.bdense":
        return np.asarray(int(call.attrs["channels"]) % 2)
    base = value_of(call.args[2])
    if base is None or base.shape[:2] != (1, 1):
        return None
    parity: Array = base[0, 0] % 2
    return parity


def _atoms(values: Values, var: Any, memo: dict[Any, list[Atom]]) -> list[Atom]:
    if var not in memo:
        memo[var] = _atoms_of(values, var, memo)[:_MANY]
    return memo[var]


def _atoms_of(values: Values, var: Any, memo: dict[Any, list[Atom]]) -> list[Atom]:
    call = values.producer(var)
    if call is None:
        zero = np.zeros((), np.float32)
        return [Atom(zero, f"the network's input {var.name} itself may hold zeros")]
    name = op_name(call)
    if name in _MOVES:
        fields = call.args[0].fields if isinstance(call.args[0], relax.Tuple) else [call.args[0]]
        atoms = [atom for f in fields for atom in _atoms_of_operand(values, f, memo)]
        return [a for a in atoms if a.value.size == 1 or name not in ("relax.concat",)]
    if name == "relax.nn.pad":
        padded = np.float32(float(call.attrs.pad_value))
        return [
            *_atoms(values, call.args[0], memo),
            Atom(np.asarray(padded), f"padding with {float(padded):g} before the sign"),
        ]
    if name == "relax.xnortvm.sign" or name not in POINTWISE:
        return []
    return _through_pointwise(values, call, memo)


def _atoms_of_operand(values: Values, arg: Any, memo: dict[Any, list[Atom]]) -> list[Atom]:
    constant = _constant(arg)
    if constant is not None:
        return [Atom(constant, "a constant of the model is 0")]
    return _atoms(values, arg, memo)


def _through_pointwise(values: Values, call: Any, memo: dict[Any, list[Atom]]) -> list[Atom]:
    name = op_name(call)
    origin = _ORIGINS.get(name)
    made: list[Atom] = []
    if origin is not None:
        bounds = [float(b) for b in (scalar_operand(a) for a in call.args[1:]) if b is not None]
        made = [Atom(np.asarray(np.float32(b)), origin) for b in bounds or [0.0]]
    if name == "relax.multiply":
        factors = [c for c in (_constant(a) for a in call.args) if c is not None]
        if factors and (factors[0] == 0).any():
            return [Atom(np.where(factors[0] == 0, 0.0, np.nan), "a channel is multiplied by 0")]
    operands = [_atoms_of_operand(values, arg, memo) for arg in call.args]
    if not all(operands):
        return made
    combined: list[tuple[list[Array], str]] = [([], "")]
    for arg, atoms in zip(call.args, operands, strict=True):
        said = isinstance(arg, relax.Var)
        combined = [
            ([*chosen, atom.value], atom.origin if said else text)
            for chosen, text in combined
            for atom in atoms
        ][: _MANY * 4]
    try:
        mapped = [Atom(apply(call, chosen), text) for chosen, text in combined]
    except ValueError:  # per-channel values of operands that are laid out differently
        return made
    return made + mapped


def _constant(arg: Any) -> Array | None:
    scalar = scalar_operand(arg)
    return value_of(arg) if scalar is None else scalar


#: Operators that create atoms: they send an interval to one value.
_ORIGINS = {
    "relax.nn.relu": "it comes from a ReLU, whose output is 0 for every negative input",
    "relax.nn.relu6": "it comes from a ReLU6, whose output is 0 for every negative input",
    "relax.clip": "it comes from a clamp, whose bounds occur on purpose",
}

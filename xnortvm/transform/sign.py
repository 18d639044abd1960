# SPDX-License-Identifier: Apache-2.0
"""Every spelling of sign → ``xnortvm.sign``.

People write sign in dozens of ways (`where(x >= 0, 1, -1)`, `2·(x > 0) - 1`, the sums of Bi-Real's
straight-through estimator, ...). Instead of one pattern for each, a chain of scalar elementwise
operators is *evaluated*: on numbers of all magnitudes, both signs, and zero. A chain that gives
one value for all negative and another for all positive numbers is a step, whatever it is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xnortvm import ops
from xnortvm._tvm import IRModule, ir, relax
from xnortvm.graph.dataflow import (
    Builder,
    Graph,
    const,
    dtype_of,
    is_const,
    op_name,
    rebuild,
    value_of,
)
from xnortvm.graph.pointwise import POINTWISE, Array, apply, scalar_operand

#: Spread of the values on one side of zero that still counts as one value: straight-through
#: estimators leave arithmetic residue.
TOLERANCE = 1e-4

#: What residue leaves of a scale of 1 and an offset of 0 in the median: a few units in the last
#: place. Anything larger is a scale that was meant.
RESIDUE = 1e-6


@dataclass(frozen=True)
class Step:
    """A function of one number: `low` below zero, `high` above, `at_zero` at zero.

    `low` may be the larger one: ``where(x < 0, 1, -1)`` is -sign(x).
    """

    source: Any
    low: float
    at_zero: float
    high: float

    @property
    def zero(self) -> str | None:
        """How sign(0) goes: "+1", "-1", "0" for a true ternary sign, None for none of them."""
        middle = (self.low + self.high) / 2
        for mode, value in (("+1", self.high), ("-1", self.low), ("0", middle)):
            if abs(self.at_zero - value) <= TOLERANCE * abs(self.high - self.low):
                return mode
        return None


def canonicalize_sign(mod: IRModule) -> IRModule:
    """Replace every step function by ``a·sign(x) + b``, written with ``xnortvm.sign``.

    For the usual idioms a = 1 and b = 0, and nothing but the sign is left. ``sign(relu(x))``,
    whose values are 0 and 1, becomes ½·sign(x) + ½ with sign(0) = -1: zeros that happen on purpose
    stay exact without a third value.
    """
    mod = _spell_out(mod)
    graph = Graph(mod["main"])
    steps = find_steps(graph)
    signs: dict[tuple[Any, str], Any] = {}

    def visit(builder: Builder, var: Any, call: Any) -> Any:
        step = steps.get(var)
        if step is None or step.zero is None:
            return None
        source = builder.new(step.source)
        scale, offset = (step.high - step.low) / 2, (step.high + step.low) / 2
        key = (source, step.zero)
        if key not in signs:
            signs[key] = builder.emit(ops.sign(source, zero=step.zero), str(var.name), call.span)
        result = signs[key]
        if abs(scale - 1) > RESIDUE:
            result = builder.emit(relax.op.multiply(result, const(np.asarray(scale, np.float32))))
        if abs(offset) > RESIDUE * abs(scale):
            result = builder.emit(relax.op.add(result, const(np.asarray(offset, np.float32))))
        return result

    return rebuild(mod, visit)


def _spell_out(mod: IRModule) -> IRModule:
    """Rewrite what hides a step at zero.

    ``x > c`` becomes ``x - c > 0`` for float x: the subtraction never rounds to zero.
    ``round(clip(x, 0, 1))`` becomes ``x > ½``, since ½ is rounded to 0. ``max_pool(relu(x))`` of
    which the sign is taken becomes ``relu(max_pool(x))``, which is the same.
    """
    graph = Graph(mod["main"])

    def visit(builder: Builder, var: Any, call: Any) -> Any:
        rule = _SPELLINGS.get(op_name(call))
        if rule is None or not dtype_of(call.args[0]).startswith("float"):
            return None
        users = {op_name(graph.value[user]) for user in graph.users[var] if user is not None}
        return rule(builder, call, users)

    return rebuild(mod, visit)


def _comparison(builder: Builder, call: Any, _: set[str]) -> Any:
    left, right = call.args
    threshold = value_of(right)
    if is_const(left) or (threshold is not None and not threshold.any()):
        return None
    difference = builder.emit(relax.op.subtract(left, right))
    zero = const(np.zeros((), dtype_of(left)))
    return getattr(relax.op, op_name(call).removeprefix("relax."))(difference, zero)


def _rounded_clip(builder: Builder, call: Any, _: set[str]) -> Any:
    clip = builder.producer(call.args[0])
    bounds = [scalar_operand(a) for a in clip.args[1:]] if op_name(clip) == "relax.clip" else []
    if [float(b) for b in bounds if b is not None] != [0.0, 1.0]:
        return None
    dtype = dtype_of(clip.args[0])
    half = np.full((), 0.5, dtype)
    above = builder.emit(relax.op.subtract(clip.args[0], const(half)))
    positive = builder.emit(relax.op.greater(above, const(np.zeros_like(half))))
    return relax.op.astype(positive, dtype)


def _pooled_relu(builder: Builder, call: Any, users: set[str]) -> Any:
    relu = builder.producer(call.args[0])
    if op_name(relu) != "relax.nn.relu" or "relax.sign" not in users:
        return None
    pooled = ir.Call(call.op, [relu.args[0]], call.attrs, call.ty_args, call.span)
    return relax.op.nn.relu(builder.emit(pooled))


_SPELLINGS: dict[str, Callable[[Builder, Any, set[str]], Any]] = {
    **dict.fromkeys(
        ("relax.greater", "relax.greater_equal", "relax.less", "relax.less_equal"), _comparison
    ),
    "relax.round": _rounded_clip,
    "relax.nn.max_pool2d": _pooled_relu,
}


def find_steps(graph: Graph) -> dict[Any, Step]:
    """Find the variables that are step functions of another float variable.

    The farthest source wins, so that monotone operators before the sign (hardtanh, clip, tanh,
    division by a positive number) drop out.

    Returns
    -------
    dict
        From variable to `Step`.
    """
    steps: dict[Any, Step] = {}
    cones: dict[Any, dict[Any, Array]] = {}  # variable -> {source: samples of it over the source}
    for var, call in graph.calls():
        cone = _extend(graph, call, cones)
        if cone and dtype_of(var).startswith("float"):
            for source, samples in cone.items():
                step = _as_step(source, samples)
                if step is not None:
                    steps[var] = step
                    break
        cones[var] = cone
    return steps


def _extend(graph: Graph, call: Any, cones: dict[Any, dict[Any, Array]]) -> dict[Any, Array]:
    """Samples of a call's result over each variable that alone determines it, farthest first."""
    if op_name(call) == "relax.xnortvm.sign":
        return {}
    if op_name(call) not in POINTWISE:
        return _extend_fill(graph, call, cones)
    tensors = [arg for arg in call.args if isinstance(arg, relax.Var)]
    if not tensors:
        return {}
    known = [{**cones.get(t, {}), **_identity(t)} for t in tensors]
    result = {}
    for source in known[0]:
        if not all(source in samples for samples in known):
            continue
        operands = _operands(call, tensors, [samples[source] for samples in known])
        if operands is not None:
            result[source] = apply(call, operands)
    return result


def _extend_fill(graph: Graph, call: Any, cones: dict[Any, dict[Any, Array]]) -> dict[Any, Array]:
    """``ones_like(x)`` and its kin depend on no value, so they fit every source of x."""
    fills = {"relax.ones_like": 1.0, "relax.zeros_like": 0.0}
    value = fills.get(op_name(call))
    if op_name(call) == "relax.full_like":
        given = value_of(call.args[1])
        value = None if given is None or given.size != 1 else float(given.item())
    if value is None or not isinstance(call.args[0], relax.Var):
        return {}
    source = call.args[0]
    samples = {**cones.get(source, {}), **_identity(source)}
    return {key: np.full_like(SAMPLES, value) for key in samples}


def _identity(var: Any) -> dict[Any, Array]:
    return {var: SAMPLES.copy()} if dtype_of(var) == "float32" else {}


def _operands(call: Any, tensors: list[Any], samples: list[Array]) -> list[Array] | None:
    """Operand values of a call; None when a constant is not a single number."""
    by_var = dict(zip(tensors, samples, strict=True))
    operands = []
    for arg in call.args:
        if isinstance(arg, relax.Var):
            operands.append(by_var[arg])
            continue
        value = scalar_operand(arg)
        if value is None:
            value = value_of(arg)
            if value is not None:
                flat = value.reshape(-1)
                value = flat[0].reshape(()) if flat.size and (flat == flat[0]).all() else None
        if value is None:
            return None
        operands.append(value)
    return operands


def _as_step(source: Any, samples: Array) -> Step | None:
    values = np.broadcast_to(samples, SAMPLES.shape)
    if not np.isfinite(values).all():
        return None
    below, zero, above = values[SAMPLES < 0], values[SAMPLES == 0], values[SAMPLES > 0]
    low, high = float(np.median(below)), float(np.median(above))
    if high == low:
        return None
    allowed = TOLERANCE * abs(high - low)
    flat = max(np.ptp(below), np.ptp(zero), np.ptp(above)) <= allowed
    return Step(source, low, float(zero[0]), high) if flat else None


def _samples() -> Array:
    magnitudes = np.concatenate(
        [np.logspace(-37, 3, 397), np.linspace(0.001, 3, 400), [0.5, 1.0, 1.5, 2.0, 2.5]]
    ).astype(np.float32)
    return np.concatenate(
        [-magnitudes, np.zeros(2, np.float32) * np.asarray([1, -1], np.float32), magnitudes]
    )


#: Where chains are evaluated. Both zeros are there, and neighbours of the usual clipping points.
SAMPLES = _samples()

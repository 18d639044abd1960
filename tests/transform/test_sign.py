# SPDX-License-Identifier: Apache-2.0
"""Every spelling of sign becomes `xnortvm.sign` and keeps what it does at 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.differential import assert_same
from tests.relax_modules import f32, module, operators
from tests.relax_reference import evaluate
from xnortvm._tvm import relax
from xnortvm.graph.dataflow import Graph, op_name
from xnortvm.transform.sign import canonicalize_sign

t = torch


class _Autograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.sign()


def _bireal(x: Any) -> Any:
    out, m1, m2, m3 = t.sign(x), (x < -1).float(), (x < 0).float(), (x < 1).float()
    o1 = -m1 + (x * x + 2 * x) * (1 - m1)
    o2 = o1 * m2 + (-x * x + 2 * x) * (1 - m2)
    o3 = o2 * m3 + (1 - m3)
    return out.detach() - o3.detach() + o3


def _bnext(x: Any) -> Any:
    clipped = t.clamp(x, -1, 1)
    return (t.sign(clipped) - clipped).detach() + clipped


def _bitorch(x: Any) -> Any:
    s = t.sign(x)
    return t.where(s == 0, t.tensor(1.0), s)


def _micronet(x: Any) -> Any:
    s = t.sign(x)
    s[s == 0] = 1
    return s


SPELLINGS: dict[str, Callable[[Any], Any]] = {
    "autograd function": _Autograd.apply,
    "bitorch": _bitorch,
    "where > tensors": lambda x: t.where(x > 0, t.tensor(1.0), t.tensor(-1.0)),
    "where >= numbers": lambda x: t.where(x >= 0, 1.0, -1.0),
    "where < numbers, negated": lambda x: t.where(x < 0, 1.0, -1.0),
    "where of two conditions": lambda x: t.where((x > 0) | (x == 0), 1.0, -1.0),
    "brevitas": lambda x: (x >= 0).to(x.dtype) * 2 - 1,
    "2 (x > 0) - 1": lambda x: 2 * x.gt(0).float() - 1,
    "1 - 2 (x < 0)": lambda x: 1 - 2 * (x < 0).float(),
    "masked_fill": lambda x: t.ones_like(x).masked_fill_(x < 0, -1),
    "index_put": _micronet,
    "sign of shifted sign": lambda x: t.sign(t.sign(x) + 0.1),
    "binarynet": lambda x: x.div(1).sign().mul(1),
    "bi-real": _bireal,
    "bnext": _bnext,
    "sign of clamp": lambda x: t.sign(t.clamp(x / 0.7, -1, 1)),
    "sign of tanh": lambda x: t.sign(t.tanh(5 * x)),
    "sign of hardtanh": lambda x: t.sign(F.hardtanh(x)),
    "sign of leaky relu": lambda x: t.sign(F.leaky_relu(x, 0.1)),
    "sign of relu": lambda x: t.sign(F.relu(x)),
    "sign of relu6": lambda x: t.sign(F.relu6(x)),
    "round of clamp": lambda x: t.round(t.clamp((x + 1) / 2, 0, 1)) * 2 - 1,
    "threshold": lambda x: 0.8 * (x > 0.8 * 0.3).float(),
    "copysign": lambda x: t.copysign(t.ones_like(x), x),
    "scaled": lambda x: 0.37 * t.where(x >= 0, 1.0, -1.0),
    "scaled by nearly 1": lambda x: 1.00003 * t.where(x >= 0, 1.0, -1.0),
    "zero or one": lambda x: (x > 0).float(),
    "one or zero": lambda x: (x <= 0).float(),
    "two values": lambda x: t.where(x >= 0, 0.5, -0.25),
}
IDIOMS = [name for name in SPELLINGS if name != "copysign"]  # which sees the sign of a zero


class _Heads(torch.nn.Module):
    """One linear layer behind each spelling."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(len(names), 8, 45, generator=generator))

    def forward(self, x: Any) -> Any:
        heads = zip(self.names, self.weight, strict=True)
        return tuple(F.linear(SPELLINGS[name](x), w.sign()) for name, w in heads)


def test_every_spelling_makes_a_binary_layer() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 45, generator=generator)
    assert_same(_Heads(list(SPELLINGS)), x, binary=len(SPELLINGS))


def test_every_spelling_keeps_its_meaning_at_zero() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(-1, 2, (3, 45), generator=generator).float()
    assert_same(_Heads(IDIOMS), x, binary=len(IDIOMS))


@settings(max_examples=30, deadline=None)
@given(
    threshold=st.floats(-4, 4, width=32).filter(lambda c: c == 0 or abs(c) > 1e-30),
    low=st.integers(-3, 3),
    step=st.integers(1, 4),
    compare=st.sampled_from(["greater", "greater_equal", "less", "less_equal"]),
    shift=st.sampled_from([0.0, 0.5, -1.0]),
)
def test_a_step_equals_the_sign_that_replaces_it(
    threshold: float, low: int, step: int, compare: str, shift: float
) -> None:
    def body(emit: Any, x: Any) -> Any:
        moved = emit(relax.op.add(x, f32(shift)))
        mask = emit(getattr(relax.op, compare)(moved, f32(threshold)))
        return relax.op.where(mask, f32(float(low + step)), f32(float(low)))

    before = module(body, (1, 64))
    after = canonicalize_sign(before)
    edge = np.float32(threshold)
    near = [np.nextafter(edge, np.float32(d)) for d in (-np.inf, np.inf)]
    x = np.resize(np.asarray([edge - shift, *near, 0, -0.0, 5, -5, 0.25], np.float32), (1, 64))
    np.testing.assert_array_equal(evaluate(after, x)[0], evaluate(before, x)[0])
    assert "xnortvm.sign" in operators(after)
    assert "where" not in operators(after)


def _zero_modes(body: Callable[..., Any]) -> list[str]:
    graph = Graph(canonicalize_sign(module(body, (2, 8)))["main"])
    calls = [call for _, call in graph.calls() if op_name(call) == "relax.xnortvm.sign"]
    return [str(call.attrs["zero"]) for call in calls]


def test_sign_of_relu_needs_no_third_value() -> None:
    assert _zero_modes(lambda emit, x: relax.op.sign(emit(relax.op.nn.relu(x)))) == ["-1"]


def test_plain_sign_stays_ternary() -> None:
    assert _zero_modes(lambda emit, x: relax.op.sign(x)) == ["0"]


def test_equal_signs_of_one_value_become_one() -> None:
    def body(emit: Any, x: Any) -> Any:
        first = emit(relax.op.sign(x))
        return relax.op.add(first, emit(relax.op.sign(emit(relax.op.tanh(x)))))

    assert _zero_modes(body) == ["0"]


@pytest.mark.parametrize(
    "body",
    [
        lambda emit, x: relax.op.where(emit(relax.op.greater(x, f32(1.0))), x, f32(-1.0)),
        lambda emit, x: relax.op.tanh(x),
        lambda emit, x: relax.op.nn.relu(x),
        lambda emit, x: relax.op.clip(x, -1, 1),
        lambda emit, x: relax.op.multiply(x, f32(0.0)),
        lambda emit, x: relax.op.round(emit(relax.op.clip(x, 0, 2))),
        lambda emit, x: relax.op.abs(emit(relax.op.sign(x))),
    ],
    ids=["half a step", "tanh", "relu", "clip", "constant", "three values", "absolute sign"],
)
def test_does_not_take_other_functions_for_a_step(body: Callable[..., Any]) -> None:
    x = np.linspace(-3, 3, 16, dtype=np.float32).reshape(2, 8)
    before = module(body, (2, 8))
    after = canonicalize_sign(before)
    np.testing.assert_array_equal(evaluate(after, x)[0], evaluate(before, x)[0])
    steps = [name for name in operators(after) if name == "xnortvm.sign"]
    assert len(steps) == ("sign" in operators(before))


def test_does_not_drop_a_relu_under_a_greater_or_equal() -> None:
    def body(emit: Any, x: Any) -> Any:
        mask = emit(relax.op.greater_equal(emit(relax.op.nn.relu(x)), f32(0.0)))
        return relax.op.where(mask, f32(1.0), f32(-1.0))

    after = canonicalize_sign(module(body, (2, 8)))
    x = np.linspace(-3, 3, 16, dtype=np.float32).reshape(2, 8)
    np.testing.assert_array_equal(evaluate(after, x)[0], np.ones_like(x))

# SPDX-License-Identifier: Apache-2.0
"""Chains of scales and shifts become short and stay the same function."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.relax_modules import f32, module, operators
from tests.relax_reference import evaluate
from xnortvm import ops
from xnortvm._tvm import relax
from xnortvm.graph.dataflow import Graph, value_of
from xnortvm.transform.affine import fold_affine
from xnortvm.transform.batch_norm import batch_norm_to_affine

RNG = np.random.default_rng(0)
SHAPE = (2, 3, 4, 5)
SHAPES = [(), (5,), (1, 1, 1, 5), (1, 3, 1, 1), (1, 1, 4, 1), (1, 3, 4, 1), (1, 3, 4, 5)]
step = st.tuples(
    st.sampled_from(["add", "subtract", "multiply", "divide", "affine"]),
    st.sampled_from(SHAPES),
    st.integers(0, 1000),
)


def _constant(shape: tuple[int, ...], seed: int) -> Any:
    rng = np.random.default_rng(seed)
    value = rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)
    return relax.const(np.asarray(value, np.float32))


def _constants(mod: Any) -> list[Any]:
    arrays = [value_of(arg) for _, call in Graph(mod["main"]).calls() for arg in call.args]
    return [array for array in arrays if array is not None]


@settings(max_examples=60, deadline=None)
@given(chain=st.lists(step, min_size=1, max_size=6))
def test_a_folded_chain_computes_the_same(chain: list[tuple[str, tuple[int, ...], int]]) -> None:
    def body(emit: Any, x: Any) -> Any:
        for name, shape, seed in chain:
            constant = _constant(shape, seed)
            if name == "affine":
                x = emit(ops.affine(x, constant, _constant(shape, seed + 1)))
            else:
                x = emit(getattr(relax.op, name)(x, constant))
        return x

    before = module(body, SHAPE)
    after = fold_affine(before)
    x = RNG.normal(size=SHAPE).astype(np.float32)
    expected = evaluate(before, x)[0]
    largest = np.abs(expected).max() + 64  # what may have cancelled on the way
    np.testing.assert_allclose(evaluate(after, x)[0], expected, rtol=0, atol=1e-5 * largest)
    assert len(operators(after)) <= len(operators(before)) + 2


def test_gamma_and_batch_norm_become_one_scale_per_axis() -> None:
    alpha, beta, gamma = (RNG.normal(size=s).astype(np.float32) for s in (SHAPES[2:5]))

    def body(emit: Any, x: Any) -> Any:
        y = emit(relax.op.multiply(x, relax.const((alpha * beta * gamma).astype(np.float32))))
        y = emit(relax.op.add(y, _constant((5,), 1)))
        return ops.affine(y, _constant((5,), 2), _constant((5,), 3))

    after = fold_affine(module(body, SHAPE))
    assert operators(after) == ["multiply", "multiply", "xnortvm.affine"]
    assert sum(constant.size for constant in _constants(after)) == 3 + 4 + 5 + 5


def test_does_not_fold_through_a_value_with_other_users() -> None:
    def body(emit: Any, x: Any) -> Any:
        y = emit(relax.op.multiply(x, f32(2.0)))
        return relax.Tuple([y, emit(relax.op.multiply(y, f32(3.0)))])

    assert operators(fold_affine(module(body, SHAPE))) == ["multiply", "multiply"]


def test_does_not_grow_constants() -> None:
    def body(emit: Any, x: Any) -> Any:
        y = emit(relax.op.add(x, _constant((1, 3, 1, 1), 1)))
        return relax.op.multiply(y, _constant((1, 1, 1, 5), 2))

    before = module(body, SHAPE)
    assert operators(fold_affine(before)) == ["add", "multiply"]


def test_does_not_divide_by_zero() -> None:
    before = module(lambda emit, x: relax.op.divide(x, f32([1.0, 0.0, 2.0, 3.0, 4.0])), SHAPE)
    assert operators(fold_affine(before)) == ["divide"]


def test_batch_norm_becomes_an_affine() -> None:
    parameters = [RNG.uniform(0.5, 2, 5).astype(np.float32) for _ in range(4)]

    def body(emit: Any, x: Any) -> Any:
        normed = relax.op.nn.batch_norm(
            x, *map(relax.const, parameters), axis=3, epsilon=1e-5, training=False
        )
        return relax.TupleGetItem(emit(normed), 0)

    before = module(body, SHAPE)
    after = batch_norm_to_affine(before)
    x = RNG.normal(size=SHAPE).astype(np.float32)
    assert operators(after) == ["xnortvm.affine"]
    np.testing.assert_allclose(evaluate(after, x)[0], evaluate(before, x)[0], atol=1e-5)


def test_does_not_touch_a_batch_norm_in_training() -> None:
    def body(emit: Any, x: Any) -> Any:
        ones = relax.const(np.ones(5, np.float32))
        normed = relax.op.nn.batch_norm(x, ones, ones, ones, ones, axis=3, training=True)
        return relax.TupleGetItem(emit(normed), 0)

    before = module(body, SHAPE)
    assert operators(batch_norm_to_affine(before)) == operators(before)

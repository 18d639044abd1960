# SPDX-License-Identifier: Apache-2.0
"""Calling a compiled model: kinds, layouts, names, freshness, and clear refusals."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from xnortvm._tvm import relax
from xnortvm.errors import InputError

from .conftest import compiled_model

SHAPE = (2, 3, 8)


def _values(seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype("float32")


def _expected(x: Any) -> Any:
    return np.maximum(x + 1 + 1, 0)


def test_numpy_in_gives_numpy_out(model):
    result = model(_values())
    assert isinstance(result, np.ndarray)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, _expected(_values()), rtol=1e-6)


def test_torch_in_gives_torch_out(model):
    result = model(torch.from_numpy(_values()))
    assert isinstance(result, torch.Tensor)
    np.testing.assert_allclose(result.numpy(), _expected(_values()), rtol=1e-6)


def test_several_outputs_come_as_a_tuple(two_by_two):
    a, b = np.arange(4, dtype="float32"), np.full(4, 2, "float32")
    result = two_by_two(a, b)
    assert isinstance(result, tuple)
    np.testing.assert_array_equal(result[0], a + b)
    np.testing.assert_array_equal(result[1], a * b)


def test_inputs_can_be_given_by_name(two_by_two):
    a, b = np.arange(4, dtype="float32"), np.full(4, 3, "float32")
    np.testing.assert_array_equal(two_by_two(b=b, a=a)[1], a * b)
    np.testing.assert_array_equal(two_by_two(a, b=b)[0], a + b)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
        lambda x: np.ascontiguousarray(x[::-1])[::-1],
        lambda x: np.concatenate([[0], x.ravel()]).astype("float32")[1:].reshape(SHAPE),
    ],
    ids=["fortran", "strided", "negative-stride", "misaligned"],
)
def test_any_memory_layout_of_numpy_is_read_correctly(model, make):
    x = make(_values())
    np.testing.assert_allclose(model(x), _expected(x), rtol=1e-6)


def test_read_only_arrays_are_accepted(model):
    x = _values()
    x.setflags(write=False)
    np.testing.assert_allclose(model(x), _expected(x), rtol=1e-6)


def test_strided_and_grad_requiring_tensors_are_read_correctly(model):
    x = torch.from_numpy(_values()).permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not x.is_contiguous()
    np.testing.assert_allclose(model(x.requires_grad_()).numpy(), _expected(x.detach().numpy()))


def test_does_not_change_its_inputs(model):
    x = torch.from_numpy(_values())
    model(x)
    np.testing.assert_array_equal(x.numpy(), _values())


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_results_of_earlier_calls_are_never_overwritten(model, kind):
    first = model(kind(_values(1)))
    kept = np.asarray(first).copy()
    for seed in range(5):
        model(kind(_values(seed)))
    np.testing.assert_array_equal(np.asarray(first), kept)


def test_results_can_be_written_to(model):
    result = model(_values())
    result += 1
    np.testing.assert_allclose(result, _expected(_values()) + 1, rtol=1e-6)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_does_not_hand_out_inputs_or_constants_as_results(kind):
    def body(builder: Any, x: Any) -> Any:
        constant = builder.emit(relax.const(np.full((2,), 7, "float32")))
        return x, constant, builder.emit(relax.op.reshape(x, (4, 1)))

    same = compiled_model([("x", (2, 2), "float32")], body)
    x = kind(np.ones((2, 2), "float32"))
    for result in same(x):
        result[...] = -1
    passed, constant, reshaped = same(kind(np.full((2, 2), 5, "float32")))
    assert float(x[0, 0]) == 1
    assert (np.asarray(passed) == 5).all()
    assert (np.asarray(constant) == 7).all()
    assert np.asarray(reshaped).shape == (4, 1)
    assert (np.asarray(reshaped) == 5).all()


def test_calls_from_several_threads_do_not_mix(model):
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = _values(seed)
        wrong.extend(seed for _ in range(50) if not np.allclose(model(x), _expected(x), rtol=1e-6))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_integer_inputs_keep_their_dtype():
    def body(builder: Any, x: Any) -> Any:
        return builder.emit(relax.op.add(x, x))

    doubled = compiled_model([("x", (3,), "int32")], body)
    result = doubled(np.array([1, -2, 3], "int32"))
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, [2, -4, 6])


@pytest.mark.parametrize(
    ("args", "named", "words"),
    [
        ((), {}, ["1 input (x)", "'x' was not given"]),
        ((np.zeros(SHAPE, "f4"),) * 2, {}, ["1 input (x)", "2 were given"]),
        ((), {"y": np.zeros(SHAPE, "f4")}, ["none is called 'y'"]),
        ((np.zeros(SHAPE, "f4"),), {"x": np.zeros(SHAPE, "f4")}, ["given twice"]),
        (([0.0],), {}, ["'x'", "NumPy array or a torch tensor", "list"]),
        ((np.zeros(SHAPE),), {}, ["'x'", "float32, got float64", 'astype("float32")']),
        ((torch.zeros(SHAPE).half(),), {}, ["float32, got float16", ".to(torch.float32)"]),
        ((np.zeros((3, 8), "f4"),), {}, ["float32 [2×3×8]", "got float32 [3×8]"]),
        ((np.zeros((5, 3, 8), "f4"),), {}, ["[2×3×8]", "[5×3×8]", "compiled for batch 2"]),
        ((torch.zeros(SHAPE, device="meta"),), {}, ["on the CPU", "meta"]),
        ((torch.zeros(SHAPE).to_sparse(),), {}, ["must be dense"]),
        ((np.zeros(SHAPE, ">f4"),), {}, ["float32, got >f4"]),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(model, args, named, words):
    with pytest.raises(InputError) as error:
        model(*args, **named)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_mixed_kinds_are_refused(two_by_two):
    with pytest.raises(
        InputError, match="all be NumPy arrays or all torch tensors, but a is numpy, b is torch"
    ):
        two_by_two(np.zeros(4, "float32"), torch.zeros(4))


def test_repr_names_inputs_outputs_and_target(model):
    assert "x: float32 [2×3×8] -> float32 [2×3×8]" in repr(model)
    assert model.target_name in repr(model)

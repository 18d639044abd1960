# SPDX-License-Identifier: Apache-2.0
"""Constant folding in Relax: the values of TVM's own kernels, without building any."""

from __future__ import annotations

import numpy as np
import pytest

from xnortvm._tvm import relax, relax_transform, runtime, tvm
from xnortvm.frontend.fold import fold_constants
from xnortvm.frontend.names import layer_name, span
from xnortvm.frontend.numpy_ops import NUMPY_OPS
from xnortvm.graph.dataflow import Graph, is_const, op_name

op = relax.op
X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("float32")
INDICES = np.array([2, 0], "int64")


def tensor(array):
    return relax.const(np.asarray(array), str(np.asarray(array).dtype))


CASES = {
    "relax.arange": lambda x: op.arange(1, 9, 2, "int64"),
    "relax.argmax": lambda x: op.argmax(x, 1),
    "relax.argmin": lambda x: op.argmin(x, 2, keepdims=True),
    "relax.broadcast_to": lambda x: op.broadcast_to(x, (5, 2, 3, 4)),
    "relax.concat": lambda x: op.concat([x, x], 1),
    "relax.cumprod": lambda x: op.cumprod(x, 1),
    "relax.cumsum": lambda x: op.cumsum(x, 2),
    "relax.einsum": lambda x: op.einsum((x, x), "abc,abd->acd"),
    "relax.expand_dims": lambda x: op.expand_dims(x, [0, 2]),
    "relax.flatten": lambda x: op.flatten(x),
    "relax.flip": lambda x: op.flip(x, 1),
    "relax.full": lambda x: op.full((2, 3), relax.const(1.5, "float32")),
    "relax.full_like": lambda x: op.full_like(x, relax.const(1.5, "float32")),
    "relax.gather_elements": lambda x: op.gather_elements(
        x, tensor(np.ones((2, 1, 4), "int64")), 1
    ),
    "relax.matmul": lambda x: op.matmul(x, op.permute_dims(x, [0, 2, 1])),
    "relax.max": lambda x: op.max(x, [1], keepdims=True),
    "relax.mean": lambda x: op.mean(x, [0, 2]),
    "relax.min": lambda x: op.min(x),
    "relax.ones": lambda x: op.ones((2, 2), "float32"),
    "relax.ones_like": lambda x: op.ones_like(x),
    "relax.outer": lambda x: op.outer(op.flatten(x), op.flatten(x)),
    "relax.permute_dims": lambda x: op.permute_dims(x),
    "relax.prod": lambda x: op.prod(x, [2]),
    "relax.repeat": lambda x: op.repeat(x, 2, 1),
    "relax.reshape": lambda x: op.reshape(x, (4, -1)),
    "relax.split": lambda x: op.split(x, [1, 2], 2),
    "relax.squeeze": lambda x: op.squeeze(op.expand_dims(x, [1]), [1]),
    "relax.stack": lambda x: op.stack([x, x], 1),
    "relax.std": lambda x: op.std(x, [1]),
    "relax.strided_slice": lambda x: op.strided_slice(x, [1, 2], [2, 1], [-9, 4], [-1, 2]),
    "relax.sum": lambda x: op.sum(x, [1, 2]),
    "relax.take": lambda x: op.take(x, tensor(INDICES), 1),
    "relax.tile": lambda x: op.tile(x, (2, 1, 2)),
    "relax.tril": lambda x: op.tril(x, 1),
    "relax.triu": lambda x: op.triu(x, -1),
    "relax.variance": lambda x: op.variance(x, [0]),
    "relax.zeros": lambda x: op.zeros((3,), "int32"),
    "relax.zeros_like": lambda x: op.zeros_like(x),
    # elementwise operators, whose rules are shared with the rest of the compiler
    "relax.sign": lambda x: op.sign(x),
    "relax.where": lambda x: op.where(op.greater(x, relax.const(0.0, "float32")), x, op.abs(x)),
    "relax.astype": lambda x: op.astype(op.greater(x, relax.const(0.0, "float32")), "float32"),
    "relax.round": lambda x: op.round(op.multiply(x, relax.const(2.0, "float32"))),
    "relax.clip": lambda x: op.clip(x, -0.5, 0.5),
}


def function_of(values, parameter):
    """``main`` that returns the value of every case, of a constant or of a parameter."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(X.shape, "float32"))
    source = x if parameter else tensor(X)
    with builder.function("main", [x]):
        with builder.dataflow():
            results = []
            for case in values:
                value = builder.emit(case(source))
                is_tuple = isinstance(value.ty, relax.TupleType)
                count = len(value.ty.fields) if is_tuple else 0
                parts = [relax.TupleGetItem(value, index) for index in range(count)]
                results.extend(builder.emit(part) for part in parts)
                results.extend([] if is_tuple else [value])
            output = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(output)
    return builder.get()


@pytest.fixture(scope="module")
def by_tvm():
    """Results of TVM's kernels in the order of the cases."""
    executable = relax.build(function_of(CASES.values(), parameter=True), "llvm")
    machine = relax.VirtualMachine(executable, tvm.cpu())
    return [value.numpy() for value in machine["main"](runtime.tensor(X))]


def fields(mod):
    """The tuple that ``main`` returns, constants as arrays."""
    graph = Graph(mod["main"])
    result = graph.result
    while isinstance(result, relax.Var):
        result = graph.value[result]
    return [
        field.value.numpy() if is_const(field) else graph.producer(field) for field in result.fields
    ]


def test_folded_values_are_those_of_tvms_kernels(by_tvm):
    mod = fold_constants(function_of(CASES.values(), parameter=False))
    for found, expected in zip(fields(mod), by_tvm, strict=True):
        assert isinstance(found, np.ndarray)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_every_rule_has_a_case():
    assert set(NUMPY_OPS) <= set(CASES)


def test_does_not_build_kernels_for_operators_that_numpy_knows(monkeypatch):
    def build(*_, **__):
        raise AssertionError("a kernel was built")

    monkeypatch.setattr(relax_transform, "FoldConstant", build)
    mod = function_of([CASES["relax.permute_dims"], CASES["relax.take"]], parameter=False)
    assert all(isinstance(value, np.ndarray) for value in fields(fold_constants(mod)))


def test_operators_that_numpy_does_not_know_are_left_to_tvm():
    mod = fold_constants(function_of([lambda x: op.nn.softplus(x)], parameter=False))
    (value,) = fields(mod)
    np.testing.assert_allclose(value, np.log1p(np.exp(X)), rtol=1e-5)


def test_does_not_fold_what_reads_an_input():
    mod = function_of([lambda x: op.sign(x)], parameter=True)
    (call,) = fields(fold_constants(mod))
    assert op_name(call) == "relax.sign"


def test_does_not_fold_a_broadcast_to_a_large_tensor():
    mod = function_of([lambda x: op.broadcast_to(x, (400_000, 2, 3, 4))], parameter=False)
    (call,) = fields(fold_constants(mod))
    assert op_name(call) == "relax.broadcast_to"


def test_calls_whose_arguments_were_folded_keep_their_layer():
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3, 4), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            bias = builder.emit(op.reshape(tensor(np.arange(3.0, dtype="float32")), (3, 1)))
            add = op.add(x, bias)
            value = builder.emit(relax.Call(add.op, add.args, None, None, span("head.fc")))
            output = builder.emit_output(value)
        builder.emit_func_output(output)
    mod = fold_constants(builder.get())
    ((_, call),) = Graph(mod["main"]).calls()
    assert layer_name(call) == "head.fc"
    assert call.args[1].value.numpy().shape == (3, 1)


def test_constants_keep_dtype_and_rank():
    values = [np.float64(2.5), np.int64(1 << 40), np.array([True]), np.zeros((0, 3), "float16")]
    mod = function_of([lambda x, v=v: op.reshape(tensor(v), v.shape) for v in values], False)
    for found, value in zip(fields(fold_constants(mod)), values, strict=True):
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(found, value)

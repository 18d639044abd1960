# SPDX-License-Identifier: Apache-2.0
"""Small Relax modules that need nothing of the compiler, built and wrapped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from xnortvm._tvm import BlockBuilder, TensorType, relax, relax_transform
from xnortvm.report import Report
from xnortvm.runtime.build import build
from xnortvm.runtime.module import CompiledModel
from xnortvm.target import resolve

Inputs = Sequence[tuple[str, tuple[int, ...], str]]


def relax_module(inputs: Inputs, body: Callable[..., Any]) -> Any:
    """Return a legalised module; `body` takes a BlockBuilder and the inputs."""
    builder = BlockBuilder()
    params = [relax.Var(name, TensorType(shape, dtype)) for name, shape, dtype in inputs]
    with builder.function("main", params):
        with builder.dataflow():
            result = body(builder, *params)
            if isinstance(result, tuple):
                result = relax.Tuple(list(result))
            result = builder.emit_output(result)
        builder.emit_func_output(result)
    return relax_transform.LegalizeOps()(builder.get())


def compiled_model(inputs: Inputs, body: Callable[..., Any], **options: Any) -> CompiledModel:
    """Build a module for this host."""
    target = resolve("llvm", **options)
    return CompiledModel.from_built(build(relax_module(inputs, body), target), Report(target.name))


def one_input(builder: Any, x: Any) -> Any:
    """relu(x + 1 + 1): two kernels, of which one is called twice."""
    one = relax.const(1.0, "float32")
    y = builder.emit(relax.op.add(x, one))
    y = builder.emit(relax.op.add(y, one))
    return builder.emit(relax.op.nn.relu(y))


@pytest.fixture(scope="session")
def model() -> CompiledModel:
    """x (2, 3, 8) → relu(x + 2)."""
    return compiled_model([("x", (2, 3, 8), "float32")], one_input)


@pytest.fixture(scope="session")
def two_by_two() -> CompiledModel:
    """a (4,), b (4,) → (a + b, a · b)."""

    def body(builder: Any, a: Any, b: Any) -> Any:
        return builder.emit(relax.op.add(a, b)), builder.emit(relax.op.multiply(a, b))

    return compiled_model([("a", (4,), "float32"), ("b", (4,), "float32")], body)

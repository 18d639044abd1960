# SPDX-License-Identifier: Apache-2.0
"""Small Relax modules made by hand, and what is in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xnortvm import ops
from xnortvm._tvm import BlockBuilder, IRModule, relax
from xnortvm.graph.dataflow import Graph, op_name


def module(body: Callable[..., Any], *shapes: tuple[int, ...], dtype: str = "float32") -> IRModule:
    """Return a module whose ``main`` computes ``body(emit, x0, x1, ...)``."""
    builder = BlockBuilder()
    params = [relax.Var(f"x{i}", relax.TensorType(s, dtype)) for i, s in enumerate(shapes)]
    with builder.function("main", params):
        with builder.dataflow():
            result = body(builder.emit, *params)
            if not isinstance(result, (relax.Var, relax.Tuple)):
                result = builder.emit(result)
            output = builder.emit_output(result)
        builder.emit_func_output(output)
    return builder.get()


def operators(mod: IRModule, name: str = "main") -> list[str]:
    """Return the names of the operators of a function in order, without ``relax.``."""
    found = [op_name(call) for _, call in Graph(mod[name]).calls()]
    return [each.removeprefix("relax.") for each in found if each]


def f32(*values: Any, shape: tuple[int, ...] = ()) -> Any:
    """Return a float32 constant."""
    array = np.asarray(values[0] if len(values) == 1 else values, np.float32)
    return relax.const(array.reshape(shape) if shape else array)


def signs(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    """Return random ±1 weights."""
    return rng.choice([-1.0, 1.0], shape).astype(np.float32)


def conv(x: Any, weight: np.ndarray[Any, Any], **attrs: Any) -> Any:
    """Return an NHWC convolution by OHWI weights."""
    last = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
    return relax.op.nn.conv2d(x, relax.const(weight), **last, **attrs)


def accumulator(emit: Any, x: Any, weight: np.ndarray[Any, Any], layer: str = "layer") -> Any:
    """Emit the accumulator of a 1×1 binary convolution of sign(x) with (O, 1, 1, C) weights."""
    outputs, _, _, channels = weight.shape
    bits = emit(ops.bitpack(x))
    table = np.full((1, 1, outputs), channels, np.int32)
    packed = relax.const(ops.pack(weight < 0))
    return emit(ops.bconv2d(bits, packed, relax.const(table), channels=channels, layer=layer))

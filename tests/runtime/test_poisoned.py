# SPDX-License-Identifier: Apache-2.0
"""Runs with noise in fresh memory, and calls that can be repeated."""

from __future__ import annotations

import numpy as np
from tvm.script import relax as R
from tvm.script import tirx as T

from xnortvm._tvm import TvmTarget, relax, tvm
from xnortvm.runtime.build import lowering_passes
from xnortvm.runtime.trace import live_calls, poisoned


@T.prim_func
def every_other(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
    for i in range(4):
        b[2 * i] = a[i]


def _vm() -> relax.VirtualMachine:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((8,), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            var = builder.add_func(every_other, "every_other")
            y = builder.emit_output(relax.call_tir(var, [x], R.Tensor((8,), "float32")))
        builder.emit_func_output(y)
    passes = tvm.ir.transform.Sequential(lowering_passes())
    built = relax.build(builder.get(), TvmTarget("llvm"), relax_pipeline=passes)
    return relax.VirtualMachine(built, tvm.cpu())


def test_what_a_kernel_forgets_to_write_is_noise() -> None:
    x = tvm.runtime.tensor(np.arange(8, dtype=np.float32))
    result, filled = poisoned(_vm(), [x])
    assert filled == 1
    got = result.numpy()
    np.testing.assert_array_equal(got[::2], np.arange(4))
    np.testing.assert_array_equal(got[1::2].view(np.uint32), 0xCACACACA)


def test_live_calls_can_be_repeated() -> None:
    x = tvm.runtime.tensor(np.arange(8, dtype=np.float32))
    ((symbol, function, tensors),) = live_calls(_vm(), [x])
    assert symbol == "every_other"
    x.copyfrom(np.full(8, 7, np.float32))
    function(*tensors)
    np.testing.assert_array_equal(tensors[-1].numpy()[::2], 7)

# SPDX-License-Identifier: Apache-2.0
"""Max pooling by ``fmax`` is that of NumPy, and a NaN in a window is its result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xnortvm._tvm import IRModule, relax, runtime, te, tvm
from xnortvm.ops import legalize_map
from xnortvm.ops.max_pool2d import NAME, max_pool2d_te
from xnortvm.schedules import schedule_function
from xnortvm.schedules.isa import ISAS, isa_of
from xnortvm.target import resolve

#: Window, stride, (top, left, bottom, right), dilation; the last has windows that end outside.
FORMS = [
    ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    ((2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
    ((3, 2), (1, 2), (1, 0, 1, 1), (2, 1)),
    ((3, 3), (2, 2), (0, 0, 2, 2), (1, 1)),
]


def _reference(x: np.ndarray[Any, Any], form: Any) -> np.ndarray[Any, Any]:
    (kh, kw), (sh, sw), (top, left, bottom, right), (dh, dw) = form
    x = np.pad(x, [(0, 0), (top, bottom), (left, right), (0, 0)], constant_values=-np.inf)
    rows, columns = x.shape[1] - dh * (kh - 1), x.shape[2] - dw * (kw - 1)
    windows = [
        x[:, i * dh : i * dh + rows : sh, j * dw : j * dw + columns : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    return np.maximum.reduce(windows)


@pytest.mark.parametrize("channels", [8, 33])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_pools_as_numpy_does_and_keeps_nans(form: Any, channels: int) -> None:
    x = np.random.default_rng(channels).standard_normal((2, 9, 11, channels)).astype(np.float32)
    x[0, 4, 5, 3], x[1, 0, 0, 7], x[1, 8, 10, 0] = np.nan, np.inf, -np.inf
    expected = _reference(x, form)
    pool_size, strides, padding, dilation = form
    tensor = te.placeholder(x.shape, "float32", name="x")
    pooled = max_pool2d_te(
        tensor,
        size=expected.shape[1:3],  # type: ignore[arg-type]
        pool_size=pool_size,
        strides=strides,
        padding=padding,
        dilation=dilation,
    )
    target = resolve("llvm")
    func = schedule_function(te.create_prim_func([tensor, pooled]), isa_of(target))
    library = tvm.compile(IRModule({"pool": func.with_attr("global_symbol", "pool")}), target.tvm)
    output = runtime.tensor(np.empty_like(expected))
    library["pool"](runtime.tensor(x), output)
    np.testing.assert_array_equal(output.numpy(), expected)


def _legalized(dtype: str, layout: str) -> str:
    x = relax.Var("x", relax.TensorType((1, 4, 4, 8), dtype))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        pool = relax.op.nn.max_pool2d(x, pool_size=(2, 2), strides=(2, 2), layout=layout)
        builder.emit_func_output(builder.emit(pool))
    mod = relax.transform.LegalizeOps({NAME: legalize_map(ISAS["neon"])[NAME]})(builder.get())
    return str(mod.script())


def test_does_not_pool_other_layouts_and_types_itself() -> None:
    assert "fmax" in _legalized("float32", "NHWC")
    assert "fmax" not in _legalized("float32", "NCHW")
    assert "fmax" not in _legalized("int32", "NHWC")
    assert NAME not in legalize_map(ISAS["avx2"])

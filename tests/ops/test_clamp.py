# SPDX-License-Identifier: Apache-2.0
"""`clamp` gives the same bits as a comparison of floats, for everything but NaN."""

from __future__ import annotations

import numpy as np
import pytest

from xnortvm import ops
from xnortvm._tvm import IRModule, runtime, te, tvm
from xnortvm.ops.clamp import clamp_te
from xnortvm.schedules import schedule_function
from xnortvm.schedules.isa import isa_of
from xnortvm.target import resolve

VALUES = np.array(
    [0.0, 1e-45, 1e-38, 0.5, 1.0, np.nextafter(np.float32(1), 2), 6.0, 7.5, 3e38, np.inf],
    np.float32,
)


@pytest.mark.parametrize("limits", [(0, np.inf), (0, 6), (-1, 1), (-np.inf, 2), (-1e-38, 1e-38)])
def test_every_number_is_clamped_as_floats_are(limits: tuple[float, float]) -> None:
    x = np.resize(np.concatenate([VALUES, -VALUES]), (3, 40))  # vectors, and a rest
    tensor = te.placeholder(x.shape, "float32", name="x")
    target = resolve("llvm")
    func = te.create_prim_func([tensor, clamp_te(tensor, low=limits[0], high=limits[1])])
    func = schedule_function(func, isa_of(target)).with_attr("global_symbol", "clamp")
    library = tvm.compile(IRModule({"clamp": func}), target.tvm)
    output = runtime.tensor(np.empty_like(x))
    library["clamp"](runtime.tensor(x), output)
    np.testing.assert_array_equal(output.numpy(), np.clip(x, *np.float32(limits)))


@pytest.mark.parametrize("limits", [(1, 2), (-2, -1), (-1, 0)])
def test_limits_on_one_side_of_zero_are_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="on both sides of 0"):
        ops.clamp(None, *limits)

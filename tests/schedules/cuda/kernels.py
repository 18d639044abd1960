# SPDX-License-Identifier: Apache-2.0
"""Run kernels of a family in the emulator and compare every output with NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.cuda.emulator import Program
from tests.ops.kernel_cases import Case
from xnortvm.schedules.cuda.epilogue import narrowed
from xnortvm.schedules.cuda.weights import PREPARED, WeightLayout, prepare


def check(case: Case, make: Callable[[Any], Any], arch: str, *, early: bool | None = None) -> Any:
    """Compare the kernel that `make` gives for a case; threads in both orders unless told."""
    func = make(narrowed(case.func))
    inputs = [np.ascontiguousarray(array) for array in case.inputs]
    if PREPARED in func.attrs:
        layout = WeightLayout.from_json(str(func.attrs[PREPARED]))
        inputs[layout.param : layout.param + 1] = prepare(inputs[layout.param], layout)
    program = Program(func, arch)
    for order in (False, True) if early is None else (early,):
        outputs = program.run(*inputs, early=order)
        for number, (got, wanted) in enumerate(zip(outputs, case.expected, strict=True)):
            np.testing.assert_array_equal(
                got, wanted, err_msg=f"{arch}, output {number} of {case.name}"
            )
    return program

# SPDX-License-Identifier: Apache-2.0
"""Run kernels of a family in the emulator and compare every output with NumPy."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.cuda.emulator import Program
from tests.ops.kernel_cases import Case, Conv
from xnortvm.schedules.cuda.epilogue import narrowed
from xnortvm.schedules.cuda.weights import PREPARED, WeightLayout, prepare, without_bits

#: Set by ``make test-cuda``: the whole grid.
WHOLE = bool(os.environ.get("XNORTVM_CUDA_GRID"))

#: Convolutions that every family on tensor cores computes, but `UNPACKED` only without packing.
CONVS = {
    "zero padding": Conv(128, 64, (5, 6)),
    "batch of 8, one pixel each": Conv(96, 40, (3, 3), padding=(0, 0, 0, 0), images=8),
    "stride 2, 2 words": Conv(64, 33, (5, 7), strides=(2, 2), images=2),
    "dilation, padding by -1": Conv(
        96, 65, (5, 7), kernel=(2, 3), dilation=(2, 1), padding=(2, 1, 2, 1), pad_value=-1
    ),
    "padding by -1, K is no whole stage": Conv(33, 32, (4, 4), pad_value=-1),
    "groups": Conv(128, 64, (4, 5), groups=2),
    "groups of odd channels": Conv(64, 80, (3, 4), groups=2),
    "1x1 with stride": Conv(32, 96, (6, 5), kernel=(1, 1), strides=(2, 1), padding=(0,) * 4),
    "K = 4608": Conv(512, 32, (3, 3)),
    "one bit": Conv(1, 8, (4, 4), kernel=(5, 5), padding=(2, 2, 2, 2), pad_value=1),
    "7x7": Conv(64, 64, (8, 8), kernel=(7, 7), strides=(2, 2), padding=(3, 3, 3, 3)),
}
UNPACKED = "groups of odd channels"
DENSE = {"batch 1": (1, 300, 33), "batch 8, K = 4608": (8, 4608, 64), "70 rows": (70, 65, 10)}


def check(case: Case, make: Callable[[Any], Any], arch: str, *, early: bool | None = None) -> Any:
    """Compare the kernel that `make` gives for a case; threads in both orders unless told."""
    func = make(narrowed(case.func))
    inputs = [np.ascontiguousarray(array) for array in case.inputs]
    if PREPARED in func.attrs:
        layout = WeightLayout.from_json(str(func.attrs[PREPARED]))
        weights = inputs[layout.param]
        if layout.base >= 0:
            inputs[layout.base] = without_bits(inputs[layout.base], weights)
        inputs[layout.param : layout.param + 1] = prepare(weights, layout)
    program = Program(func, arch)
    for order in (False, True) if early is None else (early,):
        outputs = program.run(*inputs, early=order)
        for number, (got, wanted) in enumerate(zip(outputs, case.expected, strict=True)):
            np.testing.assert_array_equal(
                got, wanted, err_msg=f"{arch}, output {number} of {case.name}"
            )
    return program

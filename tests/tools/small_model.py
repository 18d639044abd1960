# SPDX-License-Identifier: Apache-2.0
"""A model of one kernel, saved as a folder for any target without the compiler's front end."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xnortvm._tvm import BlockBuilder, TensorType, relax, relax_transform
from xnortvm.report import Report
from xnortvm.runtime.build import build
from xnortvm.runtime.folder import Example
from xnortvm.runtime.module import CompiledModel
from xnortvm.target import resolve


def saved(target: str, folder: Path, expected: float = 2.0) -> Path:
    """x (2, 3) → x + x, and an example that expects `expected` times x."""
    builder = BlockBuilder()
    x = relax.Var("x", TensorType((2, 3), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(builder.emit(relax.op.add(x, x)))
        builder.emit_func_output(y)
    built = build(relax_transform.LegalizeOps()(builder.get()), resolve(target))
    given = np.ones((2, 3), "float32")
    example = Example((given,), (given * np.float32(expected),), 1e-5)
    return CompiledModel.from_built(built, Report()).save_folder(folder, example)

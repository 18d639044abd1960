# SPDX-License-Identifier: Apache-2.0
"""TVM itself with its default pipeline: the operators' plain loops, nothing scheduled or tuned."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from .job import Arrays, Engine, Job


def prepare(job: Job) -> Engine:
    """Build the imported module as ``relax.build`` does by itself."""
    import tvm
    from tvm import relax

    settings = json.loads((job.folder / "target.json").read_text())
    mod = tvm.ir.load_json((job.folder / "module.json").read_text())
    target = tvm.target.Target({**settings, "num-cores": job.num_threads})
    machine = relax.VirtualMachine(relax.build(mod, target), tvm.cpu())
    inputs = [tvm.runtime.tensor(value) for value in job.inputs]
    main = machine["main"]

    def outputs(result: Any) -> Arrays:
        parts = result if not isinstance(result, tvm.runtime.Tensor) else [result]
        return [np.array(part.numpy()) for part in parts]

    return Engine(
        lambda: main(*inputs),
        outputs,
        f"TVM {tvm.__version__}, relax.build's default pipeline: plain loops without a schedule",
    )

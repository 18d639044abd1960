# SPDX-License-Identifier: Apache-2.0
"""PyTorch in eager mode, as the model is given: float32, NCHW."""

from __future__ import annotations

from typing import Any

from .job import Engine, Job, as_arrays


def prepare(job: Job) -> Engine:
    """Load the module or the exported program."""
    import torch

    torch.set_num_threads(job.num_threads)
    program, pickled = job.folder / "model.pt2", job.folder / "model.pt"
    if program.exists():
        module = torch.export.load(str(program)).module()
    else:
        module = torch.load(str(pickled), weights_only=False)
    inputs = [torch.from_numpy(value) for value in job.inputs]

    def run() -> Any:
        with torch.inference_mode():
            return module(*inputs)

    return Engine(run, as_arrays, f"PyTorch {torch.__version__} eager, float32")

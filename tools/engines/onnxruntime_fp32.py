# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's CPU provider on the exported model, all its graph optimisations on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .job import Engine, Job, as_arrays


def session_engine(path: Path, job: Job, note: str) -> Engine:
    """Return a session on a model file as an engine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    feed: dict[str, Any] = dict(zip(names, job.inputs, strict=True))
    return Engine(lambda: session.run(None, feed), as_arrays, note)


def prepare(job: Job) -> Engine:
    """Open a session."""
    import onnxruntime

    note = f"ONNX Runtime {onnxruntime.__version__}, float32"
    return session_engine(job.folder / "model.onnx", job, note)

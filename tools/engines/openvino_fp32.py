# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the exported ONNX model, in float32."""

from __future__ import annotations

from .job import Engine, Job
from .openvino_binary import compile_for_cpu, engine


def prepare(job: Job) -> Engine:
    """Read and compile the model."""
    import openvino as ov

    compiled, kinds = compile_for_cpu(ov.Core().read_model(job.folder / "model.onnx"), job)
    release = ov.get_version().split("-")[0]
    binary = kinds.get("BinaryConvolution", 0)
    note = f"OpenVINO {release}, float32" + (f", {binary} of them binary" if binary else "")
    return engine(compiled, job, note)

# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's BinaryConvolution in a graph assembled from our own matched network.

No framework exports this operator, and OpenVINO's own pass from quantised convolutions to it
gives wrong results (all activations −1 in 2026.4), so the graph is made by hand: the same layers,
weights, paddings and scales as ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .job import Engine, Job
from .network import Network


def compile_for_cpu(model: Any, job: Job) -> tuple[Any, dict[str, int]]:
    """Return a compiled model and how many operators of each kind its graph has."""
    import openvino as ov

    settings = {
        "INFERENCE_NUM_THREADS": job.num_threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = ov.Core().compile_model(model, "CPU", settings)
    kinds: dict[str, int] = {}
    for operator in compiled.get_runtime_model().get_ops():
        kind = operator.get_rt_info()["layerType"].astype(str)
        kinds[kind] = kinds.get(kind, 0) + 1
    return compiled, kinds


def engine(compiled: Any, job: Job, note: str) -> Engine:
    """Return a compiled model as an engine; its inputs are set once."""
    import openvino as ov

    request = compiled.create_infer_request()
    for index, value in enumerate(job.inputs):
        request.set_input_tensor(index, ov.Tensor(np.ascontiguousarray(value)))

    def outputs(_: Any) -> list[np.ndarray[Any, Any]]:
        count = len(compiled.outputs)
        return [np.array(request.get_output_tensor(index).data) for index in range(count)]

    return Engine(request.infer, outputs, note)


def prepare(job: Job) -> Engine:
    """Assemble, compile, and see that the binary layers are binary."""
    import openvino as ov

    from .openvino_ops import Graph

    network = Network.load(job.folder)
    compiled, kinds = compile_for_cpu(Graph(network).model(), job)
    binary = sum(node.op in ("bconv2d", "bdense") for node in network.nodes)
    if kinds.get("BinaryConvolution", 0) != binary:
        raise RuntimeError(
            f"OpenVINO made {kinds.get('BinaryConvolution', 0)} binary convolutions of {binary}"
        )
    moves = kinds.get("Reorder", 0) + kinds.get("Transpose", 0)
    release = ov.get_version().split("-")[0]
    note = f"OpenVINO {release}: {binary} BinaryConvolution, {moves} layout changes"
    return engine(compiled, job, note)

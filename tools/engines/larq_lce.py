# SPDX-License-Identifier: Apache-2.0
"""Larq Compute Engine in a graph assembled from our own matched network.

Its interpreter has switches, and which are fastest depends on the network: all are tried while it
is prepared. The last release, 0.16, needs TensorFlow 2.16 with Keras 2 (``tf-keras``).
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .job import CannotRunError, Engine, Job, as_arrays
from .network import Network

_SWITCHES: dict[str, dict[str, bool]] = {
    "BGEMM": {},
    "indirect BGEMM": {"use_indirect_bgemm": True},
    "BGEMM, XNNPACK": {"use_xnnpack": True},
    "indirect BGEMM, XNNPACK": {"use_indirect_bgemm": True, "use_xnnpack": True},
}
_TRIALS = 3


def prepare(job: Job) -> Engine:
    """Assemble, convert, and choose the fastest interpreter."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    warnings.filterwarnings("ignore")
    import larq_compute_engine as lce
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    from .larq_ops import Graph

    network = Network.load(job.folder)
    if any(node.shape[:1] != [1] for node in network.inputs):
        raise CannotRunError("its interpreter runs one image at a time; leave --batch out")
    graph = Graph(network)
    converted = lce.convert_keras_model(graph.model())
    inputs = [
        np.ascontiguousarray(value.transpose(0, 2, 3, 1)) if image else value
        for value, image in zip(job.inputs, graph.channels_last, strict=True)
    ]
    argument = inputs if len(inputs) > 1 else inputs[0]

    def runner(switches: dict[str, bool]) -> Callable[[], Any]:
        interpreter = Interpreter(converted, num_threads=job.num_threads, **switches)
        return lambda: interpreter.predict(argument)

    runners = {name: runner(switches) for name, switches in _SWITCHES.items()}
    best = min(runners, key=lambda name: _seconds(runners[name]))
    binary = sum(node.op in ("bconv2d", "bdense") for node in graph.network.nodes)
    note = f"Larq Compute Engine, {best}: {binary} binary layers, image as NHWC"
    return Engine(runners[best], as_arrays, note)


def _seconds(run: Callable[[], Any]) -> float:
    run()
    times = []
    for _ in range(_TRIALS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)

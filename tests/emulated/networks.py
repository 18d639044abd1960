# SPDX-License-Identifier: Apache-2.0
"""A whole network, compiled by the whole pipeline → one program with all its kernels in order."""

from __future__ import annotations

from typing import Any

import numpy as np

from xnortvm import pipeline
from xnortvm._tvm import runtime
from xnortvm.emulation.network import kernels as named
from xnortvm.emulation.network import library, walk
from xnortvm.emulation.program import OUTPUT, Program
from xnortvm.target import Target, resolve

Array = np.ndarray[Any, Any]

#: Whose kernels say what is right.
ORACLE = "x86-64-v3"


def network(
    name: str, graph: Any, inputs: list[Array], target: Target, prefix: str
) -> tuple[Program, dict[str, Any]]:
    """Return a program and the kernels it calls.

    AVX2 kernels, which are run here, say what every kernel must compute, bit by bit.

    Parameters
    ----------
    name : str
    graph : IRModule
        What `xnortvm.api.lower` returns.
    inputs : list of array
    target : Target
        Whose kernels the program calls.
    prefix : str
        Put before the names of the kernels.
    """
    here = resolve(ORACLE)
    expected = Program(name)
    kernels = pipeline.run(graph, pipeline.kernel_phases(here))
    walk(kernels, inputs, expected)
    _run_here(expected, library(named(kernels), here))

    program = Program(name)
    kernels = pipeline.run(graph, pipeline.kernel_phases(target))
    walk(kernels, inputs, program, prefix)
    results = [slot.value for slot in expected.slots if slot.role == OUTPUT and slot.view_of < 0]
    slots = [slot for slot in program.slots if slot.role == OUTPUT and slot.view_of < 0]
    for slot, result in zip(slots, results, strict=True):
        assert slot.value.shape == result.shape
        slot.value = result
    return program, named(kernels, prefix)


def _run_here(program: Program, compiled: Any) -> None:
    """Fill in what this machine computes."""
    tensors: list[Any] = []
    for slot in program.slots:
        of = tensors[slot.view_of] if slot.view_of >= 0 else None
        view = of is not None and of._create_view(slot.value.shape)
        tensors.append(view or runtime.tensor(slot.value))
    for kernel, arguments in program.calls:
        compiled[kernel](*(tensors[index] for index in arguments))
    for slot, tensor in zip(program.slots, tensors, strict=True):
        slot.value = tensor.numpy()

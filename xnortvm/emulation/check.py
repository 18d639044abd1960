# SPDX-License-Identifier: Apache-2.0
"""What an emulated run computed against NumPy, kernel by kernel, on what each kernel read."""

from __future__ import annotations

from typing import Any

import numpy as np

from xnortvm.emulation.network import Network
from xnortvm.emulation.program import OUTPUT
from xnortvm.emulation.run import Ran, writer
from xnortvm.errors import VerificationError
from xnortvm.runtime.trace import KernelCall
from xnortvm.verify.bounds import bound_of, difference
from xnortvm.verify.kernels import check_kernels

Array = np.ndarray[Any, Any]


def check(network: Network, ran: Ran) -> int:
    """Compare every output of every kernel: integers and bits exactly, floats by the bound.

    Returns
    -------
    int
        How many kernels were compared one by one.

    Raises
    ------
    VerificationError
        Naming the layer, or what stopped the run.
    """
    program = network.program
    if ran.complaint:
        raise VerificationError(f"{program.name} did not run in the emulator: {ran.complaint}")
    values = [ran.outputs.get(i, slot.value) for i, slot in enumerate(program.slots)]
    for i, slot in enumerate(program.slots):
        if slot.role == OUTPUT and slot.view_of >= 0:
            values[i] = values[slot.view_of].reshape(slot.value.shape)
    layers = network.layers
    calls = [
        KernelCall(kernel, tuple(values[slot] for slot in slots))
        for kernel, slots in (
            (kernel.removeprefix(network.prefix), slots) for kernel, slots in program.calls
        )
        if layers.get(kernel)
    ]
    right = check_kernels(network.graph, calls, network.inputs)
    for place, expected in zip(network.results, _flat(right.outputs), strict=True):
        apart = difference(values[place].reshape(expected.shape), expected)
        if (apart > bound_of(expected)).any():
            raise VerificationError(
                f"{writer(program, place)} of {program.name}, which is an output of the model, "
                f"differs from NumPy by up to {float(apart.max()):.3g}; please report this"
            )
    return right.kernels


def _flat(values: Any) -> list[Array]:
    if isinstance(values, (tuple, list)):
        return [array for value in values for array in _flat(value)]
    return [values]

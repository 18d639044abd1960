# SPDX-License-Identifier: Apache-2.0
"""Modules → their kernels, run in an emulator, compared with NumPy, and what they would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from xnortvm import pipeline
from xnortvm._tvm import IRModule, tirx
from xnortvm.errors import VerificationError
from xnortvm.runtime.trace import KernelCall
from xnortvm.target import Target
from xnortvm.tools.emulation import network
from xnortvm.tools.emulation.cores import Core
from xnortvm.tools.emulation.cost import Cost, costs
from xnortvm.tools.emulation.program import OUTPUT, Program
from xnortvm.tools.emulation.run import Ran, emulate, writer
from xnortvm.transform.group import KERNEL_LAYER
from xnortvm.verify.bounds import bound_of, difference
from xnortvm.verify.kernels import check_kernels

Array = np.ndarray[Any, Any]


class Subject(NamedTuple):
    """A module to run.

    Attributes
    ----------
    graph : IRModule
        After the phases that do not depend on the target.
    inputs : list of ndarray
    """

    graph: IRModule
    inputs: list[Array]


@dataclass
class Kernel:
    """All calls of one kernel.

    Attributes
    ----------
    name : str
    layers : list of str
        The layers of the model that it computes; a kernel that computes none has an empty list.
    calls : int
    costs : dict of str to Cost
        By core; the sum of all calls.
    """

    name: str
    layers: list[str]
    calls: int = 0
    costs: dict[str, Cost] = field(default_factory=dict)


def measure(
    subjects: Mapping[str, Subject], target: Target, cores: Sequence[Core]
) -> dict[str, list[Kernel]]:
    """Return the kernels of every subject with their cost on some cores.

    Everything that every kernel computes is compared with NumPy first: integers and packed bits
    exactly, floats by the bound of docs/semantics.md.

    Parameters
    ----------
    subjects : mapping of str to Subject
    target : Target
        What the code is made for, an aarch64 CPU.
    cores : sequence of Core
        What it is modelled on.

    Raises
    ------
    MissingDependencyError
        When the emulator, a compiler or the models are missing.
    VerificationError
        When a kernel computes something else than its operators say.
    """
    programs, modules, results, functions = [], [], [], {}
    for number, (name, subject) in enumerate(subjects.items()):
        mod = pipeline.run(subject.graph, pipeline.kernel_phases(target))
        program, prefix = Program(name), f"p{number}_"
        results.append(network.walk(mod, subject.inputs, program, prefix))
        functions.update(network.kernels(mod, prefix))
        programs.append(program)
        modules.append((mod, prefix))
    library = network.library(functions, target)
    found: dict[str, list[Kernel]] = {}
    for core in cores:
        ran = emulate(programs, library, target, caches=core.caches)
        for number, (name, subject) in enumerate(subjects.items()):
            mod, prefix = modules[number]
            if core is cores[0]:
                _check(subject, mod, prefix, programs[number], ran[number], results[number])
                found[name] = _kernels(mod, prefix, programs[number])
            _add_costs(found[name], prefix, programs[number], ran[number], core)
    return found


def _layers_of(mod: IRModule) -> dict[str, list[str]]:
    """From the kernels that compute layers to those layers."""
    return {
        str(gvar.name_hint): [str(layer) for layer in mod[gvar].attrs[KERNEL_LAYER]]
        for gvar in mod.get_global_vars()
        if isinstance(mod[gvar], tirx.PrimFunc) and KERNEL_LAYER in (mod[gvar].attrs or {})
    }


def _check(
    subject: Subject, mod: IRModule, prefix: str, program: Program, ran: Ran, results: list[int]
) -> None:
    if ran.complaint:
        raise VerificationError(f"{program.name} did not run in the emulator: {ran.complaint}")
    values = [ran.outputs.get(i, slot.value) for i, slot in enumerate(program.slots)]
    for i, slot in enumerate(program.slots):
        if slot.role == OUTPUT and slot.view_of >= 0:
            values[i] = values[slot.view_of].reshape(slot.value.shape)
    layers = _layers_of(mod)
    calls = [
        KernelCall(kernel.removeprefix(prefix), tuple(values[slot] for slot in slots))
        for kernel, slots in program.calls
        if layers.get(kernel.removeprefix(prefix))
    ]
    right = check_kernels(subject.graph, calls, subject.inputs).outputs
    for place, expected in zip(results, _flat(right), strict=True):
        apart = difference(values[place].reshape(expected.shape), expected)
        if (apart > bound_of(expected)).any():
            raise VerificationError(
                f"{writer(program, place)} of {program.name}, which is an output of the model, "
                f"differs from NumPy by up to {float(apart.max()):.3g}; please report this"
            )


def _flat(values: Any) -> list[Array]:
    if isinstance(values, (tuple, list)):
        return [array for value in values for array in _flat(value)]
    return [values]


def _kernels(mod: IRModule, prefix: str, program: Program) -> list[Kernel]:
    layers = _layers_of(mod)
    names = dict.fromkeys(kernel.removeprefix(prefix) for kernel, _ in program.calls)
    return [Kernel(name, layers.get(name, [])) for name in names]


def _add_costs(
    kernels: Sequence[Kernel], prefix: str, program: Program, ran: Ran, core: Core
) -> None:
    each = dict(zip((p.call for p in ran.profiles), costs(ran.profiles, core.mcpu), strict=True))
    for kernel in kernels:
        calls = [i for i, (name, _) in enumerate(program.calls) if name == prefix + kernel.name]
        kernel.calls = len(calls)
        kernel.costs[core.mcpu] = sum((each[i] for i in calls), Cost())

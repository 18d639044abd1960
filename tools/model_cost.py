# SPDX-License-Identifier: Apache-2.0
"""Modules → their kernels, run in an emulator, compared with NumPy, and what they would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from xnortvm._tvm import IRModule
from xnortvm.emulation import network
from xnortvm.emulation.check import check
from xnortvm.emulation.cores import Core
from xnortvm.emulation.cost import Cost, costs
from xnortvm.emulation.run import Ran, emulate
from xnortvm.target import Target
from xnortvm.tuning.find import deciding

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
    subjects: Mapping[str, Subject],
    target: Target,
    cores: Sequence[Core],
    *,
    records: Any = False,
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
    records : path, Records, bool or None
        Tuning records, as `xnortvm.compile` takes them; by default the rules decide.

    Raises
    ------
    MissingDependencyError
        When the emulator, a compiler or the models are missing.
    VerificationError
        When a kernel computes something else than its operators say.
    """
    decisions = deciding(records, target)
    networks = {
        name: network.network(name, *subject, target, f"p{number}_", decisions)
        for number, (name, subject) in enumerate(subjects.items())
    }
    functions = {k: f for each in networks.values() for k, f in each.functions.items()}
    library = network.library(functions, target)
    programs = [each.program for each in networks.values()]
    found: dict[str, list[Kernel]] = {}
    for core in cores:
        ran = emulate(programs, library, target, caches=core.caches)
        for (name, each), its in zip(networks.items(), ran, strict=True):
            if core is cores[0]:
                check(each, its)
                found[name] = _kernels(each)
            _add_costs(found[name], each, its, core)
    return found


def total_of(kernels: Sequence[Kernel], core: Core) -> Cost:
    """Add up what kernels cost on a core."""
    return sum((kernel.costs[core.mcpu] for kernel in kernels), Cost())


def _kernels(made: network.Network) -> list[Kernel]:
    layers = made.layers
    names = dict.fromkeys(kernel.removeprefix(made.prefix) for kernel, _ in made.program.calls)
    return [Kernel(name, layers.get(name, [])) for name in names]


def _add_costs(kernels: Sequence[Kernel], made: network.Network, ran: Ran, core: Core) -> None:
    each = dict(zip((p.call for p in ran.profiles), costs(ran.profiles, core.mcpu), strict=True))
    calls = [name.removeprefix(made.prefix) for name, _ in made.program.calls]
    for kernel in kernels:
        own = [i for i, name in enumerate(calls) if name == kernel.name]
        kernel.calls = len(own)
        kernel.costs[core.mcpu] = sum((each[i] for i in own), Cost())

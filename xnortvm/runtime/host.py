# SPDX-License-Identifier: Apache-2.0
"""Can this machine run code that was built for a target? Asked before the code is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xnortvm._triples import link_triple
from xnortvm._tvm_runtime import RUNTIME_ONLY
from xnortvm.errors import TargetError
from xnortvm.runtime import board

if TYPE_CHECKING:
    from xnortvm.target import Target


@dataclass(frozen=True)
class Machine:
    """What code needs of the machine that runs it.

    Attributes
    ----------
    triple : str
        LLVM's triple, all parts.
    features : tuple of str
        CPU features that the compiler was free to use, by LLVM's names, sorted.
    arch : str
        The architecture of the GPU that runs the kernels, "" where the CPU does.
    """

    triple: str
    features: tuple[str, ...]
    arch: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads."""
        arch = {"arch": self.arch} if self.arch else {}
        return {"triple": self.triple, "features": list(self.features), **arch}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Machine:
        """Read what `to_json` gave."""
        features = tuple(map(str, data["features"]))
        return cls(str(data["triple"]), features, str(data.get("arch", "")))


def machine_of(target: Target) -> Machine:
    """Return what code for a target needs."""
    features = target.cpu_features if target.kind == "cuda" else target.features
    return Machine(target.triple, tuple(sorted(features)), target.arch)


def check_host(machine: Machine, what: str) -> None:
    """Refuse code that this machine cannot run, instead of dying of an illegal instruction.

    Parameters
    ----------
    machine : Machine
        What the code needs.
    what : str
        Beginning of the sentence, such as ``"model.xnor was compiled for cortex-a72"``.

    Raises
    ------
    TargetError
        With what is missing.
    """
    triple, missing = _here(machine)
    needs, has = link_triple(machine.triple), link_triple(triple)
    if needs != has:
        raise TargetError(
            f"{what}, which means {needs}, and this machine is {has}; "
            "compile the model for this machine or load the file on the other one"
        )
    if missing:
        raise TargetError(
            f"{what}, which needs the CPU features {', '.join(missing)} that this machine lacks; "
            "compile the model for this machine"
        )


def check_gpu(machine: Machine, what: str) -> None:
    """Refuse kernels that the GPU of this machine cannot run, or that it has no GPU for.

    Parameters
    ----------
    machine : Machine
        What the code needs; nothing is checked where the CPU runs it.
    what : str
        Beginning of the sentence, as for `check_host`.

    Raises
    ------
    TargetError
        With what is missing.
    MissingDependencyError
        When CUDA's runtime library is missing.
    """
    if not machine.arch:
        return
    from xnortvm import _cuda_archs
    from xnortvm.runtime import cuda_driver

    cuda_driver.load_for_running(what)
    here = cuda_driver.capability()
    if here is not None and not _cuda_archs.runs_on(machine.arch, here):
        raise TargetError(
            f"{what}, and the GPU of this machine is {_cuda_archs.arch_of(here)}, which does not "
            f"run code for {machine.arch}; compile the model with "
            f"target='cuda -arch={_cuda_archs.arch_of(here)}'"
        )


def check_glibc(needed: str, what: str) -> None:
    """Refuse a library that needs a newer glibc than this machine has.

    Parameters
    ----------
    needed : str
        Such as ``"2.27"``; empty when nothing is needed.
    what : str
        The file, for the message.

    Raises
    ------
    TargetError
        With both versions.
    """
    here = board.glibc()
    if needed and here and _numbers(needed) > _numbers(here):
        raise TargetError(
            f"{what} needs glibc {needed} and this machine has {here}; "
            'link it with zig (pip install "xnortvm[cross]"), which asks for an old one'
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _here(machine: Machine) -> tuple[str, list[str]]:
    """Return this machine's triple, and what it lacks of the features that code needs."""
    if RUNTIME_ONLY:
        return board.triple(), board.missing_features(machine.features)
    from xnortvm import _cpus

    host = _cpus.host_cpu()
    return host.triple, [name for name in machine.features if name not in host.features]

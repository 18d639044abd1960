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
    """

    triple: str
    features: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads."""
        return {"triple": self.triple, "features": list(self.features)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Machine:
        """Read what `to_json` gave."""
        return cls(str(data["triple"]), tuple(map(str, data["features"])))


def machine_of(target: Target) -> Machine:
    """Return what CPU code for a target needs."""
    return Machine(target.triple, tuple(sorted(target.features)))


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

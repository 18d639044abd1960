# SPDX-License-Identifier: Apache-2.0
"""The table of CUDA architectures: which binary instructions each one really has.

Read off the machine code that nvcc 13.0 makes. A binary ``mma`` compiles for every architecture;
where the tensor cores have no such mode it becomes a call that multiplies bytes, which is slower
than counting bits on the CUDA cores. So a feature stands here only where it is one instruction.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any, NamedTuple

from xnortvm.errors import TargetError, near


class Arch(NamedTuple):
    """One row of the table.

    Attributes
    ----------
    features : frozenset of str
        ``popc``: bits of a word counted on CUDA cores. ``dp4a``: four products of bytes.
        ``mma_b1_xor``, ``mma_b1_and``: binary tensor cores, one warp. ``wgmma_b1_and``: four warps,
        operands in shared memory.
    generation : str
        What NVIDIA calls it.
    chips : str
        Where it is found, for people.
    """

    features: frozenset[str]
    generation: str
    chips: str

    def to_json(self) -> dict[str, Any]:
        """Return the row as a JSON object."""
        return {**self._asdict(), "features": sorted(self.features)}


_CUDA_CORES = frozenset({"popc", "dp4a"})
_TURING = _CUDA_CORES | {"mma_b1_xor"}
_AMPERE = _CUDA_CORES | {"mma_b1_xor", "mma_b1_and"}
_HOPPER = _CUDA_CORES | {"mma_b1_and"}

# xor is emulated on Hopper, and only its "a" architecture has wgmma. Blackwell's tensor cores have
# no binary mode.
ARCHES: MappingProxyType[str, Arch] = MappingProxyType(
    {
        "sm_75": Arch(_TURING, "Turing", "T4, GeForce RTX 20, Quadro RTX"),
        "sm_80": Arch(_AMPERE, "Ampere", "A100, A30"),
        "sm_86": Arch(_AMPERE, "Ampere", "A10, A40, GeForce RTX 30, RTX A"),
        "sm_87": Arch(_AMPERE, "Ampere", "Jetson Orin"),
        "sm_88": Arch(_AMPERE, "Ampere", "embedded chips"),
        "sm_89": Arch(_AMPERE, "Ada", "L4, L40, GeForce RTX 40"),
        "sm_90": Arch(_HOPPER, "Hopper", "H100, H200, without wgmma"),
        "sm_90a": Arch(_HOPPER | {"wgmma_b1_and"}, "Hopper", "H100, H200"),
        "sm_100": Arch(_CUDA_CORES, "Blackwell", "B200, GB200"),
        "sm_100a": Arch(_CUDA_CORES, "Blackwell", "B200, GB200"),
        "sm_103": Arch(_CUDA_CORES, "Blackwell", "B300, GB300"),
        "sm_103a": Arch(_CUDA_CORES, "Blackwell", "B300, GB300"),
        "sm_110": Arch(_CUDA_CORES, "Blackwell", "Jetson Thor"),
        "sm_120": Arch(_CUDA_CORES, "Blackwell", "GeForce RTX 50, RTX PRO 6000"),
        "sm_120a": Arch(_CUDA_CORES, "Blackwell", "GeForce RTX 50, RTX PRO 6000"),
        "sm_121": Arch(_CUDA_CORES, "Blackwell", "DGX Spark"),
    }
)

_OLDEST = 75


def check_arch(arch: str, source: str) -> None:
    """Refuse an architecture that is not in the table.

    Parameters
    ----------
    arch : str
    source : str
        How the user spelt the target, quoted.

    Raises
    ------
    TargetError
        When it is unknown, or too old for the compilers of CUDA 13.
    """
    if arch in ARCHES:
        return
    match = re.fullmatch(r"(?:sm_|compute_)?(\d{2,3})[af]?", arch)
    if match is not None and int(match[1]) < _OLDEST:
        raise TargetError(
            f"the architecture {arch} of the target {source} is too old: CUDA 13 makes code for "
            f"sm_{_OLDEST} (Turing, 2018) and later; use a CPU target on that machine"
        )
    raise TargetError(
        f"the target {source} has the unknown architecture {arch!r}{near(arch, ARCHES)}; "
        f"known are {', '.join(ARCHES)}"
    )


def arch_of(capability: tuple[int, int]) -> str:
    """Return the best architecture for a device: the "a" form where the table has it."""
    arch = "sm_{}{}".format(*capability)
    return f"{arch}a" if f"{arch}a" in ARCHES else arch


def runs_on(arch: str, capability: tuple[int, int]) -> bool:
    """Say whether device code runs: same major number, minor not below; "a" needs both the same."""
    match = re.fullmatch(r"sm_(\d+)(\d)(a?)", arch)
    if match is None:
        return False
    major, minor = int(match[1]), int(match[2])
    return capability == (major, minor) or (
        not match[3] and capability[0] == major and capability[1] > minor
    )

# SPDX-License-Identifier: Apache-2.0
"""The cores whose cost can be modelled: one row each."""

from __future__ import annotations

from typing import NamedTuple

from xnortvm.emulation.profile import Caches
from xnortvm.errors import TargetError, near

_K = 1 << 10


class Core(NamedTuple):
    """A core of aarch64.

    Attributes
    ----------
    mcpu : str
        LLVM's name, of target and scheduling model.
    caches : Caches
        As on a common board with it.
    board : str
        Which board that is.
    """

    mcpu: str
    caches: Caches
    board: str


CORES = {
    core.mcpu: core
    for core in (
        Core("cortex-a53", Caches(32 * _K, 4, 512 * _K, 16), "Raspberry Pi 3"),
        Core("cortex-a55", Caches(32 * _K, 4, 128 * _K, 4), "RK3588, small core"),
        Core("cortex-a72", Caches(32 * _K, 2, 1024 * _K, 16), "Raspberry Pi 4"),
        Core("cortex-a76", Caches(64 * _K, 4, 512 * _K, 8), "Raspberry Pi 5"),
        Core("neoverse-n1", Caches(64 * _K, 4, 1024 * _K, 8), "Graviton 2"),
        Core("neoverse-v1", Caches(64 * _K, 4, 1024 * _K, 8), "Graviton 3"),
    )
}


def core_of(name: str) -> Core:
    """Return the row of a core.

    Raises
    ------
    TargetError
        When there is none, with the names there are.
    """
    if name not in CORES:
        raise TargetError(
            f"the cost of {name!r} cannot be modelled{near(name, CORES)}; "
            f"cores are {', '.join(CORES)}"
        )
    return CORES[name]

# SPDX-License-Identifier: Apache-2.0
"""The runner for the GPU of this machine; those of others are `xnortvm.tuning.boards`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xnortvm.errors import TargetError
from xnortvm.runtime import cuda_driver
from xnortvm.runtime.cuda_compiler import find_cuda_compiler
from xnortvm.runtime.link import find_linker
from xnortvm.tuning.runner import LocalRunner, Measured

if TYPE_CHECKING:
    from xnortvm.target import Target

#: The process that measures: it loads no compiler.
_MODULE = "xnortvm.tuning.measurer"


class GpuRunner(LocalRunner):
    """One process that measures on the GPU of this machine.

    A kernel that faults leaves a process whose GPU refuses all that follows; it is replaced.
    """

    def __init__(self, threads: int = 1, timeout: float = 30.0) -> None:
        super().__init__(threads, timeout, _MODULE, place="gpu")

    def check(self, target: Target) -> None:
        """Refuse a target that no GPU here runs, and a machine that cannot compile for it."""
        if not target.is_host:
            raise TargetError(
                f"no GPU of this machine runs code for {target.name}: {_what_is_here()}; tune on a "
                "machine that has one, or name one behind TVM's RPC tracker with --rpc"
            )
        find_cuda_compiler()
        find_linker()
        self._where = cuda_driver.device_name()

    def time(self, folder: Path, expected: str = "") -> Measured:
        """Time what was built in one folder."""
        found = super().time(folder, expected)
        if found.failure:
            self.close()
        return found


def _what_is_here() -> str:
    """Say what GPU there is."""
    if not cuda_driver.has_driver():
        return "it has no NVIDIA driver (libcuda.so.1 is not found)"
    here = cuda_driver.capability()
    if here is None:
        return "the NVIDIA driver finds no GPU (check nvidia-smi and CUDA_VISIBLE_DEVICES)"
    return "its compute capability is {}.{}".format(*here)

# SPDX-License-Identifier: Apache-2.0
"""The microbenchmarks as machine code for every architecture that nvcc knows."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from xnortvm.errors import CompileError, MissingDependencyError
from xnortvm.runtime.cuda_compiler import find_cuda_compiler
from xnortvm.tools.gpu_bundle.source import source

#: One for each kind of chip; later minor numbers run the code of earlier ones.
ARCHES = ("75", "80", "86", "89", "90a", "100", "120")


def fatbin(arches: tuple[str, ...] = ARCHES) -> bytes:
    """Compile the microbenchmarks; needs nvcc and no GPU.

    Parameters
    ----------
    arches : tuple of str
        Without "sm_".

    Raises
    ------
    MissingDependencyError
        When there is no nvcc.
    CompileError
        When it refuses the source.
    """
    compiler = find_cuda_compiler()
    if compiler.name != "nvcc":
        raise MissingDependencyError(
            "the bundle's microbenchmarks need nvcc, and only NVRTC was found; install the CUDA "
            "toolkit 13 or name its nvcc in CUDACXX"
        )
    with tempfile.TemporaryDirectory(prefix="xnortvm-gpu-bundle-") as folder:
        text, made = Path(folder) / "ceilings.cu", Path(folder) / "ceilings.fatbin"
        text.write_text(source())
        codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in arches]
        command = [compiler.path, "-fatbin", "-O3", "-std=c++17", *codes]
        command += ["-o", str(made), str(text)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if "error" in line]
            raise CompileError(f"nvcc refuses the microbenchmarks: {(said or ['no reason'])[0]}")
        check_pipelined(done.stderr + done.stdout)
        return made.read_bytes()


def check_pipelined(said: str) -> None:
    """Refuse code in which ptxas waits for each wgmma: it would measure the waiting.

    Raises
    ------
    CompileError
        With what ptxas said.
    """
    lines = [line for line in said.splitlines() if "serialized" in line]
    if lines:
        raise CompileError(f"the microbenchmarks would not measure what they should: {lines[0]}")

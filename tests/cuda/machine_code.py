# SPDX-License-Identifier: Apache-2.0
"""Machine code of CUDA source: nvcc and cuobjdump, where they are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest


def _find(name: str) -> str | None:
    """Return a tool on the search path, in CUDA's folder or in NVIDIA's Python packages."""
    beside = [Path("/usr/local/cuda/bin"), *sorted(Path("/usr/local").glob("cuda-*/bin"))]
    beside += [Path(folder, "nvidia/cu13/bin") for folder in sys.path]
    found = [str(folder / name) for folder in beside if (folder / name).is_file()]
    return shutil.which(name) or next(iter(found), None)


needs_disassembler = pytest.mark.skipif(
    _find("nvcc") is None or _find("cuobjdump") is None,
    reason="needs nvcc and cuobjdump (pip install nvidia-cuda-cuobjdump)",
)

_MNEMONIC = re.compile(
    r"^\s+/\*[0-9a-f]{4,6}\*/\s+(?:@!?U?P[0-9T]+ )?([A-Z][A-Z0-9_.]+)", re.MULTILINE
)


def disassemble(source: str, arch: str) -> tuple[list[str], str]:
    """Return the instructions' names in order, and what ptxas says of registers and spills."""
    nvcc, cuobjdump = _find("nvcc"), _find("cuobjdump")
    assert nvcc is not None
    assert cuobjdump is not None
    number = arch.removeprefix("sm_")
    with tempfile.TemporaryDirectory() as folder:
        code, cubin = Path(folder, "k.cu"), Path(folder, "k.cubin")
        code.write_text(source)
        generate = f"-gencode=arch=compute_{number},code=sm_{number}"
        command = [nvcc, "-cubin", generate, "-O3", "-Xptxas=-v", "-w", "-o", str(cubin), str(code)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        dump = subprocess.run(
            [cuobjdump, "--dump-sass", str(cubin)], capture_output=True, text=True, check=True
        )
    return _MNEMONIC.findall(dump.stdout), done.stderr

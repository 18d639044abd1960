# SPDX-License-Identifier: Apache-2.0
"""NVRTC: CUDA source to machine code inside this process, from Python packages alone.

TVM's own way to NVRTC needs the headers of an installed CUDA toolkit, which has nvcc anyway, and
compiles with ``--use_fast_math``. Since CUDA 13.3 NVRTC brings the headers along; they are unpacked
once into the user's cache. Neither a GPU nor a driver is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xnortvm.errors import MissingDependencyError

#: The first release that has CUDA's headers.
LEAST = (13, 3)
INSTALL = "pip install 'xnortvm[cuda]'"


class NvrtcError(RuntimeError):
    """The source does not compile; the message is what NVRTC says."""


def find() -> tuple[int, int] | None:
    """Return the release of NVRTC, None where it is not installed.

    Raises
    ------
    MissingDependencyError
        When it is older than `LEAST`.
    """
    try:
        from cuda.bindings import nvrtc

        _, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError):  # the second where the package has no library to load
        return None
    if (major, minor) < LEAST:
        raise MissingDependencyError(
            f"NVRTC {major}.{minor} has no headers of CUDA, which compiling needs and which it has "
            f"since 13.3; run: {INSTALL}"
        )
    return major, minor


def compile_source(code: str, arch: str, headers: Path) -> tuple[bytes, str]:
    """Return machine code, and what ptxas says of registers and spills.

    Parameters
    ----------
    code : str
        CUDA source.
    arch : str
        Such as ``"sm_90a"``.
    headers : path
        Folder for CUDA's headers; filled when it is empty.

    Raises
    ------
    NvrtcError
    """
    from cuda.bindings import nvrtc

    options = [
        f"--gpu-architecture={arch}",
        f"--use-bundled-headers={headers}",
        "--std=c++17",
        "-default-device",
        "--device-int128",
        "--disable-warnings",
        "--ptxas-options=-v",
    ]
    program = _checked(nvrtc.nvrtcCreateProgram(code.encode(), b"kernels.cu", 0, None, None))
    try:
        (failed,) = nvrtc.nvrtcCompileProgram(
            program, len(options), [option.encode() for option in options]
        )
        log = bytes(_read(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog))
        said = log.rstrip(b"\0").decode(errors="replace")
        if failed:
            raise NvrtcError(said or str(failed))
        return _read(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN), said
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _read(program: Any, size: Any, content: Any) -> bytes:
    """Return what a pair of functions gives of a program."""
    made = bytearray(_checked(size(program)))
    _checked(content(program, made))
    return bytes(made)


def _checked(answer: tuple[Any, ...]) -> Any:
    """Return what a call returned beside its status."""
    failed, *returned = answer
    if failed:
        raise NvrtcError(str(failed))
    return returned[0] if returned else None

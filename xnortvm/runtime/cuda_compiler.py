# SPDX-License-Identifier: Apache-2.0
"""CUDA source to machine code, with nvcc or NVRTC; neither needs a GPU or a driver.

TVM's own way compiles with ``--use_fast_math``, asks a GPU for its architecture, and takes nvcc
only when it is told so. Here floats are exact: subnormal numbers, divisions and square roots as
IEEE 754 has them; products and sums are fused where the compiler likes, as on CPUs.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tvm_ffi

from xnortvm._cache import user_cache
from xnortvm.errors import CompileError, MissingDependencyError
from xnortvm.runtime import nvrtc

log = logging.getLogger("xnortvm")

_CALLBACK = "tvm_callback_cuda_compile"

_USE = re.compile(r"Compiling entry function '(\S+)' for")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")


@dataclass(frozen=True)
class CudaCompiler:
    """What makes machine code for GPUs.

    Attributes
    ----------
    name : str
        ``"nvcc"`` or ``"NVRTC"``.
    path : str
        The program; "" for NVRTC.
    """

    name: str
    path: str = ""

    @property
    def version(self) -> str:
        """The release, such as ``"13.0"``."""
        if self.name == "NVRTC":
            return ".".join(map(str, nvrtc.find() or ("unknown version",)))
        said = subprocess.run([self.path, "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"release ([\d.]+)", said.stdout)
        return found[1] if found else "unknown version"


@dataclass
class Resources:
    """What the kernels of a module take, as ptxas reports it.

    Attributes
    ----------
    registers : dict of str to int
        Registers of a thread, by kernel.
    spills : dict of str to int
        Bytes that a thread stores because registers ran out, by kernel.
    source : str
        The CUDA source.
    refusal : CompileError or None
        What the compiler said, which TVM would pass on as an error of its own.
    """

    registers: dict[str, int] = field(default_factory=dict)
    spills: dict[str, int] = field(default_factory=dict)
    source: str = ""
    refusal: CompileError | None = None


def find_cuda_compiler() -> CudaCompiler:
    """Return nvcc from ``$CUDACXX``, the search path or CUDA's folders; else NVRTC.

    Raises
    ------
    MissingDependencyError
        When there is neither, or an NVRTC that is too old.
    """
    roots = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    named = [os.environ["CUDACXX"]] if os.environ.get("CUDACXX") else []
    folders = [*(f"{root}/bin" for root in roots), "/usr/local/cuda/bin"]
    folders += sorted(glob.glob("/usr/local/cuda-*/bin"), reverse=True)
    for candidate in [*named, "nvcc", *(f"{folder}/nvcc" for folder in folders)]:
        path = shutil.which(candidate)
        if path:
            return CudaCompiler("nvcc", path)
        if candidate in named:
            raise MissingDependencyError(
                f"the environment variable CUDACXX names {candidate!r}, which cannot be run; "
                "unset it or name an installed nvcc"
            )
    if nvrtc.find() is not None:
        return CudaCompiler("NVRTC")
    raise MissingDependencyError(
        "compiling for CUDA needs nvcc or NVRTC, but no GPU, and neither was found; install the "
        f"CUDA toolkit 13 (or name its nvcc in CUDACXX), or run: {nvrtc.INSTALL}"
    )


@contextmanager
def compiling_for(arch: str) -> Iterator[Resources]:
    """Let TVM's code generator make machine code for an architecture while this is entered.

    Parameters
    ----------
    arch : str
        Such as ``"sm_90a"``.

    Yields
    ------
    Resources
        Filled in when a module has been compiled.

    Raises
    ------
    CompileError
        When the compiler refuses the source.
    MissingDependencyError
        When there is no compiler.
    """
    compiler, resources = find_cuda_compiler(), Resources()
    before = tvm_ffi.get_global_func(_CALLBACK, allow_missing=True)

    def compile_source(code: str) -> bytearray:
        resources.source += str(code)
        try:
            return _COMPILE[compiler.name](compiler, str(code), arch, resources)
        except CompileError as error:
            resources.refusal = error
            raise

    tvm_ffi.register_global_func(_CALLBACK, compile_source, override=True)
    try:
        yield resources
    except Exception:
        if resources.refusal is not None:
            raise resources.refusal from None
        raise
    finally:
        if before is not None:
            tvm_ffi.register_global_func(_CALLBACK, before, override=True)
        else:
            tvm_ffi.registry.remove_global_func(_CALLBACK)


def _with_nvcc(compiler: CudaCompiler, code: str, arch: str, resources: Resources) -> bytearray:
    number = arch.removeprefix("sm_")
    with tempfile.TemporaryDirectory(prefix="xnortvm-cuda-") as folder:
        source, made = Path(folder) / "kernels.cu", Path(folder) / "kernels.fatbin"
        source.write_text(code)
        command = [
            compiler.path,
            "--fatbin",
            "-O3",
            "-std=c++17",
            f"-gencode=arch=compute_{number},code=sm_{number}",
            "--expt-relaxed-constexpr",
            "--ptxas-options=-v",
            "-o",
            str(made),
            str(source),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode != 0:
            raise CompileError(_refusal("nvcc", arch, done.stderr + done.stdout))
        _read_use(done.stderr + done.stdout, resources)
        return bytearray(made.read_bytes())


def _with_nvrtc(_compiler: CudaCompiler, code: str, arch: str, resources: Resources) -> bytearray:
    try:
        made, said = nvrtc.compile_source(code, arch, user_cache("cuda-headers"))
    except nvrtc.NvrtcError as error:
        raise CompileError(_refusal("NVRTC", arch, str(error))) from error
    _read_use(said, resources)
    return bytearray(made)


def _refusal(name: str, arch: str, said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()]
    why = (errors or lines or ["no message"])[0]
    return f"{name} could not compile the kernels for {arch}: {why}"


def _read_use(said: str, resources: Resources) -> None:
    """Read the lines of ptxas: a function, what it spills, its registers."""
    name = ""
    for line in said.splitlines():
        if found := _USE.search(line):
            name = found[1]
        elif name and (found := _SPILLS.search(line)):
            resources.spills[name] = int(found[2]) + int(found[3])
        elif name and (found := _REGISTERS.search(line)):
            resources.registers[name] = int(found[1])
    for kernel, spilt in resources.spills.items():
        if spilt:
            log.debug("%s spills %d bytes of registers", kernel, spilt)


_COMPILE = {"nvcc": _with_nvcc, "NVRTC": _with_nvrtc}

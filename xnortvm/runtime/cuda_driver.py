# SPDX-License-Identifier: Apache-2.0
"""TVM's CUDA runtime library, on machines with a driver and on machines without.

It registers both the device and the module that holds device code, and it needs ``libcuda.so.1``,
which only a driver brings, and ``libcudart.so.13``. Without them TVM goes on in silence, and would
export CUDA *source* that the user's machine has to compile. So the libraries are looked for here.
To compile where there is no driver, a stand-in for ``libcuda.so.1`` whose functions all answer "no
device" is linked once and kept in the user's cache.
"""

from __future__ import annotations

import ctypes
import functools
import glob
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from xnortvm._cache import user_cache
from xnortvm._tvm_runtime import tvm, tvm_ffi
from xnortvm.errors import MissingDependencyError, TargetError

DRIVER, CUDART = "libcuda.so.1", "libcudart.so.13"
LIBRARY = "libtvm_runtime_cuda.so"

_REGISTERED = "ffi.Module.load_from_bytes.cuda"

# What TVM's library takes from the driver; 100 is CUDA_ERROR_NO_DEVICE.
_STAND_IN = "".join(
    f"int {name}(void) {{ return 100; }}\n"
    for name in (
        "cuDeviceGetName",
        "cuFuncSetAttribute",
        "cuGetErrorName",
        "cuGetErrorString",
        "cuLaunchKernelEx",
        "cuModuleGetFunction",
        "cuModuleLoadData",
        "cuModuleUnload",
        "cuTensorMapEncodeTiled",
    )
)


def load_for_running(what: str) -> None:
    """Load the library for running kernels; a second call does nothing.

    Parameters
    ----------
    what : str
        Beginning of the sentence of a refusal, such as ``"net.xnor was compiled for h100"``.

    Raises
    ------
    TargetError
        When this machine has no driver or no device.
    MissingDependencyError
        When CUDA's runtime library is missing.
    """
    if not has_driver():
        raise TargetError(
            f"{what}, and this machine has no NVIDIA driver (libcuda.so.1 is not found); load the "
            "saved model on a machine with a GPU, or compile it for a CPU"
        )
    _load()
    if not tvm.cuda(0).exist:
        raise TargetError(
            f"{what}, and the NVIDIA driver finds no GPU on this machine; check nvidia-smi and "
            "CUDA_VISIBLE_DEVICES, or compile the model for a CPU"
        )


def load_for_compiling() -> None:
    """Load the library so that device code can be put into a module; a second call does nothing.

    Raises
    ------
    MissingDependencyError
        When CUDA's runtime library is missing, or a C compiler for the stand-in.
    """
    if not has_driver() and not _is_loaded():
        _open(str(_stand_in()))
    _load()


@functools.cache
def has_driver() -> bool:
    """Return whether the driver's library is there. Asked before a stand-in is loaded."""
    return _open(DRIVER)


def capability() -> tuple[int, int] | None:
    """Return the compute capability of the first device, None without one."""
    if not has_driver() or not _find_cudart():
        return None
    _load()
    device = tvm.cuda(0)
    if not device.exist:
        return None
    major, minor = str(device.compute_version).split(".")
    return int(major), int(minor)


def device_name() -> str:
    """Return what the first device is called; `capability` found one."""
    return str(tvm.cuda(0).device_name)


def device_failure(said: str, target: str) -> str:
    """Return one sentence for what CUDA said when a model ran.

    Parameters
    ----------
    said : str
        The message of TVM's exception.
    target : str
        What the model was compiled for.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no message"]
    if "out of memory" in said or "MemoryAllocation" in said:
        return (
            f"the GPU has too little free memory for the model compiled for {target}; compile it "
            "for a smaller batch, or end other programs that use the GPU (nvidia-smi lists them)"
        )
    if "no kernel image" in said or "InvalidDeviceFunction" in said:
        return (
            f"the GPU does not run code for {target}; compile the model with target='cuda' on "
            "that machine, or name its architecture"
        )
    return f"the GPU failed while it ran the model compiled for {target}: {lines[-1]}"


def _is_loaded() -> bool:
    return tvm_ffi.get_global_func(_REGISTERED, allow_missing=True) is not None


def _load() -> None:
    if _is_loaded():
        return
    if not _find_cudart():
        raise MissingDependencyError(
            f"CUDA's runtime library {CUDART} is not found; install CUDA 13, or run: "
            "pip install nvidia-cuda-runtime"
        )
    path = Path(tvm.__file__).parent / "lib" / LIBRARY
    try:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise MissingDependencyError(
            f"TVM's library for CUDA cannot be loaded: {error}; install apache-tvm again"
        ) from error


@functools.cache
def _find_cudart() -> bool:
    return _open(CUDART) or any(_open(str(path)) for path in cudart_files())


def cudart_files() -> list[Path]:
    """Return the files of CUDA's runtime library in the places where it is installed."""
    roots = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    patterns = [f"{root}/{folder}/{CUDART}" for root in roots for folder in ("lib64", "lib")]
    patterns += [f"{entry}/nvidia/*/lib/{CUDART}" for entry in sys.path if entry]
    patterns += [f"/usr/local/cuda*/lib64/{CUDART}", f"/usr/local/cuda*/targets/*/lib/{CUDART}"]
    patterns += [f"/usr/local/cuda*/lib/{CUDART}"]
    return [Path(name) for pattern in patterns for name in sorted(glob.glob(pattern), reverse=True)]


def _open(library: str) -> bool:
    """Load a library for the ones that need it; say whether it is there."""
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _stand_in() -> Path:
    """Return the stand-in for the driver's library, linked when it is not in the cache yet."""
    from xnortvm.runtime.link import find_linker

    folder = user_cache("no-cuda-driver")
    library = folder / DRIVER
    if library.is_file():
        return library
    command = find_linker().command
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        source, made = Path(fresh) / "driver.c", Path(fresh) / DRIVER
        source.write_text(_STAND_IN)
        flags = ["-shared", "-fPIC", "-nostdlib", f"-Wl,-soname,{DRIVER}", "-o", str(made)]
        done = subprocess.run(
            [*command, *flags, str(source)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["no message"]
            raise MissingDependencyError(
                "compiling for CUDA without a driver needs a C compiler that links shared "
                f"libraries, and {command[0]} says: {said[-1]}"
            )
        os.replace(made, library)
    return library

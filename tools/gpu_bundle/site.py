# SPDX-License-Identifier: Apache-2.0
"""The Python packages of the bundle: TVM without its compiler, and xnortvm, from what is installed.

Of tvm-ffi only the extension module ``core`` differs between Python versions (there is no abi3
wheel): it is taken for each of them from its wheel, beside the one that is installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import platform
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from xnortvm._tvm_runtime import installed_version
from xnortvm.errors import MissingDependencyError

_log = logging.getLogger("xnortvm.tools.gpu_bundle")

#: Versions of Python that wheels of tvm-ffi exist for and that xnortvm supports.
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
_HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
_PACKAGES = ("apache-tvm", "apache-tvm-ffi")
# Files of the wheels that building needs and running does not.
_NOT_TVM = ("libtvm_compiler",)
_NOT_FFI = ("3rdparty", "include", "src", "share")

Files = dict[str, bytes]


def python_files(pythons: tuple[str, ...] = PYTHONS) -> tuple[Files, list[str]]:
    """Return the files below ``site/`` and the versions of Python that can use them.

    Parameters
    ----------
    pythons : tuple of str
        Wanted versions. Where a wheel cannot be downloaded the version is left out, with a warning;
        the running one needs no download.

    Raises
    ------
    MissingDependencyError
        When this is no x86-64 Linux, or TVM was not installed from a wheel.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise MissingDependencyError(
            "the bundle takes TVM's runtime from this machine's installation and is for x86-64 "
            f"Linux, and this is {sys.platform} on {platform.machine()}; build it there"
        )
    files = dict(_runtime("tvm", _is_needed_of_tvm))
    files |= dict(_runtime("tvm_ffi", _is_needed_of_ffi))
    files |= dict(_runtime("xnortvm", lambda name: name.endswith((".py", ".h", ".c", ".cpp"))))
    files |= {f"xnortvm/models/{name}": data for name, data in _tree("xnortvm.models", _is_python)}
    extensions = importlib.util.find_spec("typing_extensions")
    if extensions is not None and extensions.origin:
        files["typing_extensions.py"] = Path(extensions.origin).read_bytes()
    for package in _PACKAGES:
        version = installed_version(package)
        text = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        name = package.replace("-", "_")
        files[f"{name}-{version}.dist-info/METADATA"] = text.encode()
    found = [_HERE]
    for python in pythons:
        if python == _HERE:
            continue
        core = _core_for(python)
        if core:
            files |= core
            found.append(python)
    return files, sorted(found, key=lambda text: tuple(map(int, text.split("."))))


def _is_python(name: str) -> bool:
    return name.endswith(".py")


def _is_needed_of_tvm(name: str) -> bool:
    library = name.startswith("lib/") and not name.startswith(tuple(f"lib/{n}" for n in _NOT_TVM))
    return library or _is_python(name)


def _is_needed_of_ffi(name: str) -> bool:
    return name.endswith((".py", ".so")) and not name.startswith(tuple(f"{n}/" for n in _NOT_FFI))


def _runtime(package: str, needed: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    for name, data in _tree(package, needed):
        yield f"{package}/{name}", data


def _tree(package: str, needed: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(f"the package {package} is not installed; install xnortvm")
    root = Path(next(iter(spec.submodule_search_locations)))
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and "__pycache__" not in name and needed(name):
            yield name, path.read_bytes()


def _core_for(python: str) -> Files:
    """Return tvm-ffi's extension module for another Python; empty where it cannot be had."""
    wanted = f"apache-tvm-ffi=={importlib.metadata.version('apache-tvm-ffi')}"
    with tempfile.TemporaryDirectory(prefix="xnortvm-gpu-bundle-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--python-version", python, "--dest", folder]
        command += ["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_24_x86_64"]
        done = subprocess.run([*command, wanted], capture_output=True, text=True, check=False)
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            said = (done.stderr.strip().splitlines() or ["nothing was downloaded"])[-1]
            _log.warning("the bundle will not run on Python %s: %s", python, said)
            return {}
        with zipfile.ZipFile(wheels[0]) as wheel:
            return {
                name: wheel.read(name)
                for name in wheel.namelist()
                if name.startswith("tvm_ffi/core.") and name.endswith(".so")
            }

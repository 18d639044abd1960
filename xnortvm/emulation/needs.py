# SPDX-License-Identifier: Apache-2.0
"""The programs of others that emulation needs: found, or one sentence that says what to install."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from xnortvm._cache import user_cache
from xnortvm.errors import CompileError, MissingDependencyError
from xnortvm.runtime.link import find_linker

HERE = Path(__file__).parent

#: LLVM releases before this one model Neoverse cores as Cortex-A57.
LLVM_AT_LEAST = 19


class Machine(NamedTuple):
    """An emulated machine.

    Attributes
    ----------
    qemu : str
        The emulator of its processes.
    gcc : str
        The cross compiler as Debian calls it.
    zig : str
        What zig calls the machine.
    """

    qemu: str
    gcc: str
    zig: str


#: By `Target.link`.
MACHINES = {
    "aarch64-linux-gnu": Machine("qemu-aarch64", "aarch64-linux-gnu-gcc", "aarch64-linux-musl"),
    "arm-linux-gnueabihf": Machine("qemu-arm", "arm-linux-gnueabihf-gcc", "arm-linux-musleabihf"),
}


class Models(NamedTuple):
    """Programs of LLVM: scheduling models, and a disassembler of the same release."""

    mca: str
    mc: str
    version: str


def machine_of(triple: str | None) -> Machine:
    """Return the emulated machine of a target (`Target.link`).

    Raises
    ------
    MissingDependencyError
        When there is no emulator for it.
    """
    if triple not in MACHINES:
        raise MissingDependencyError(
            f"code for {triple or 'this machine'} cannot be emulated here; emulated are "
            f"{', '.join(MACHINES)}"
        )
    return MACHINES[triple]


def find_qemu(machine: Machine) -> str:
    """Return the emulator.

    Raises
    ------
    MissingDependencyError
        When it is not installed.
    """
    found = shutil.which(machine.qemu) or shutil.which(f"{machine.qemu}-static")
    if found:
        return found
    raise MissingDependencyError(
        f"{machine.qemu} is not installed; install it (Debian, Ubuntu: sudo apt install qemu-user)"
    )


def qemu_version() -> str:
    """Return the emulator of aarch64 with its release."""
    return f"qemu {_version(find_qemu(MACHINES['aarch64-linux-gnu']))}"


def find_cross_compiler(machine: Machine) -> list[str]:
    """Return the command that compiles static C programs for a machine.

    Raises
    ------
    MissingDependencyError
        When there is none.
    """
    gcc = shutil.which(machine.gcc)
    if gcc and _has_c_library(gcc):
        return [gcc]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", "-target", machine.zig]
    raise MissingDependencyError(
        f"neither {machine.gcc} with a C library nor zig was found to compile with for the "
        "emulator; "
        'run: pip install "xnortvm[cross]"'
    )


@lru_cache
def _has_c_library(gcc: str) -> bool:
    """Whether a cross compiler has a static C library: Debian only recommends the package."""
    command = [gcc, "-print-file-name=libc.a"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return Path(said.stdout.strip()).is_absolute()


def missing(triple: str | None) -> str | None:
    """Say what running code for a machine lacks here; None when nothing."""
    try:
        machine = machine_of(triple)
        find_qemu(machine)
        find_cross_compiler(machine)
    except MissingDependencyError as error:
        return str(error)
    return None


def missing_for_costs() -> str | None:
    """Say what modelling the cost of aarch64 code lacks here; None when nothing."""
    try:
        find_models()
        plugin()
    except (MissingDependencyError, CompileError) as error:
        return str(error)
    return missing("aarch64-linux-gnu")


@lru_cache
def find_models() -> Models:
    """Return llvm-mca and llvm-mc: ``$LLVM_MCA``, the search path, or ``/usr/lib/llvm-*``.

    Raises
    ------
    MissingDependencyError
        When there is none of a release that knows the cores.
    """
    seen = []
    for mca in _candidates():
        mc = shutil.which(re.sub(r"llvm-mca([^/]*)$", r"llvm-mc\1", mca))
        version = _version(mca)
        if mc and int(version.partition(".")[0] or 0) >= LLVM_AT_LEAST:
            return Models(mca, mc, version)
        seen.append(f"{mca} is {version}" if mc else f"there is no llvm-mc beside {mca}")
    raise MissingDependencyError(
        f"llvm-mca {LLVM_AT_LEAST} or newer was not found"
        + (f" ({'; '.join(seen)})" if seen else "")
        + f"; install it (Debian, Ubuntu: sudo apt install llvm-{LLVM_AT_LEAST}) or name one in "
        "LLVM_MCA"
    )


def _candidates() -> Iterator[str]:
    named = os.environ.get("LLVM_MCA")
    if named:
        path = shutil.which(named)
        if path is None:
            raise MissingDependencyError(
                f"the environment variable LLVM_MCA names {named!r}, which cannot be run; "
                "unset it or name an installed llvm-mca"
            )
        yield path
        return
    names = ["llvm-mca", *(f"llvm-mca-{release}" for release in range(LLVM_AT_LEAST, 40))]
    yield from (path for path in map(shutil.which, names) if path)
    yield from map(str, sorted(Path("/usr/lib").glob("llvm-*/bin/llvm-mca")))


def _version(program: str) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"version (\d+[\d.]*)", said.stdout)
    return match[1] if match else ""


@lru_cache
def plugin(qemu: str | None = None) -> Path:
    """Return the plugin that counts, compiled on first use and kept in the user's cache.

    Raises
    ------
    MissingDependencyError
        When there is no emulator, or no C compiler of this machine.
    CompileError
        When the compiler fails.
    """
    qemu = qemu or find_qemu(MACHINES["aarch64-linux-gnu"])
    source = HERE / "profile.c"
    api = _plugin_api(_version(qemu))
    key = hashlib.sha256(f"{source.read_text()}{api}".encode()).hexdigest()[:12]
    path = cache_folder() / f"profile-{key}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = Path(scratch) / "profile.so"
            flags = ["-O2", "-shared", "-fPIC", f"-DAPI={api}"]
            do([*find_linker().command, *flags, "-o", str(made), str(source)])
            os.replace(made, path)
    return path


def _plugin_api(version: str) -> int:
    """Return the version of the plugin interface of a release of qemu."""
    release = tuple(int(part) for part in version.split(".")[:2] if part)
    return 1 if release < (8, 2) else 2 if release < (9, 1) else 3


def cache_folder() -> Path:
    """Return where results are kept between runs."""
    return user_cache("emulation")


def do(command: list[str]) -> None:
    """Run a compiler.

    Raises
    ------
    CompileError
        With its last line, when it fails.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise CompileError(
            f"{Path(command[0]).name} could not compile for the emulator: {said[-1]}"
        )

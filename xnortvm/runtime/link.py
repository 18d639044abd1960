# SPDX-License-Identifier: Apache-2.0
"""Turn a built executable into the bytes of a shared library."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xnortvm.errors import CompileError, MissingDependencyError
from xnortvm.runtime.cross_link import Linker, check_library, find_cross_linkers
from xnortvm.runtime.noise import without_noise

log = logging.getLogger("xnortvm")

# Tried in this order when $CC is not set.
LINKERS = ("cc", "gcc", "clang")
_MACOS = ("-dynamiclib", "-undefined", "dynamic_lookup", "-Wl,-no_uuid", "-Wl,-S")


def find_linker() -> Linker:
    """Return the command of the C compiler that links, from ``$CC`` or the search path.

    Raises
    ------
    MissingDependencyError
        When there is none; models can still be compiled and called, only not saved.
    """
    named = os.environ.get("CC")
    if named:
        command = shlex.split(named)
        if shutil.which(command[0]):
            return _here(command)
        raise MissingDependencyError(
            f"the environment variable CC names {command[0]!r}, which cannot be run; "
            "unset it or name an installed C compiler"
        )
    for name in LINKERS:
        path = shutil.which(name)
        if path:
            return _here([path])
    raise MissingDependencyError(
        f"saving a model needs a C compiler to link with and none of {', '.join(LINKERS)} was "
        "found; install one (Debian, Ubuntu: sudo apt install gcc) or name one in CC"
    )


def link(executable: Any, triple: str | None = None) -> bytes:
    """Return the shared library of a ``VMExecutable`` as bytes, the same for equal executables.

    Parameters
    ----------
    executable : tvm.relax.VMExecutable
    triple : str, optional
        Of the machine to link for, when it is not this one.

    Raises
    ------
    MissingDependencyError
        When there is no C compiler.
    CompileError
        When linking fails, or gives a library that the machine it is for could not load.
    """
    if triple is None:
        return _link(executable, find_linker())
    *others, last = find_cross_linkers(triple)
    for linker in others:
        try:
            return _link_checked(executable, linker, triple)
        except CompileError as error:
            log.info("trying the next linker: %s", error)
    return _link_checked(executable, last, triple)


def objects(executable: Any) -> dict[str, bytes]:
    """Return the object files of a ``VMExecutable``: machine code, and constants and bytecode."""
    found: dict[str, bytes] = {}

    def collect(output: str, names: list[str], **_: Any) -> None:
        found.update({Path(name).name: Path(name).read_bytes() for name in sorted(names)})
        Path(output).touch()

    _export(executable, collect)
    return found


def _here(command: list[str]) -> Linker:
    return Linker(tuple(command), _MACOS) if sys.platform == "darwin" else Linker(tuple(command))


def _link_checked(executable: Any, linker: Linker, triple: str) -> bytes:
    library = _link(executable, linker)
    check_library(library, triple, linker.command[0])
    return library


def _link(executable: Any, linker: Linker) -> bytes:
    program, *_ = linker.command

    def run(output: str, objects: list[str], **_: Any) -> None:
        command = [*linker.command, *linker.flags, "-o", output, *sorted(objects)]
        done = subprocess.run(
            [*command, *linker.libraries],
            cwd=Path(output).parent,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise CompileError(
                f"{program} could not link the library: {said[-1] if said else 'no message'}"
            )

    return _export(executable, run)


def _export(executable: Any, make: Callable[..., None]) -> bytes:
    """Let TVM write its objects, and `make` the library from them."""
    with tempfile.TemporaryDirectory(prefix="xnortvm-link-") as folder:
        path = Path(folder) / "library.so"
        with without_noise():
            executable.export_library(str(path), fcompile=make, workspace_dir=folder)
        return path.read_bytes()

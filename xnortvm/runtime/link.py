# SPDX-License-Identifier: Apache-2.0
"""Turn a built executable into the bytes of a shared library."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from xnortvm.errors import CompileError, MissingDependencyError
from xnortvm.runtime.noise import without_noise

# Tried in this order when $CC is not set.
LINKERS = ("cc", "gcc", "clang")
# No build id: equal objects give equal libraries. No debug sections: a tenth of ResNet-18's file.
LINK_FLAGS = ("-shared", "-fPIC", "-Wl,--build-id=none", "-Wl,-S")
LINK_FLAGS_LLD = ("-shared", "--build-id=none", "-S")
LINK_FLAGS_MACOS = ("-dynamiclib", "-undefined", "dynamic_lookup", "-Wl,-no_uuid", "-Wl,-S")


def find_cross_linker(triple: str) -> list[str]:
    """Return the command that links for another machine: a cross gcc, lld, or zig.

    Parameters
    ----------
    triple : str
        Such as ``"aarch64-linux-gnu"`` (`Target.link`).

    Raises
    ------
    MissingDependencyError
        When there is none; says which command installs one without root.
    """
    for command in ([f"{triple}-gcc"], ["ld.lld"]):
        path = shutil.which(command[0])
        if path:
            return [path]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", "-target", triple]
    raise MissingDependencyError(
        f"saving a model for {triple} needs a cross linker and neither {triple}-gcc, ld.lld nor "
        'zig was found; run: pip install "xnortvm[cross]"'
    )


def find_linker() -> list[str]:
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
            return command
        raise MissingDependencyError(
            f"the environment variable CC names {command[0]!r}, which cannot be run; "
            "unset it or name an installed C compiler"
        )
    for name in LINKERS:
        path = shutil.which(name)
        if path:
            return [path]
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
        When linking fails.
    """
    linker = find_cross_linker(triple) if triple else find_linker()
    bare = linker[0].endswith("ld.lld")  # lld itself, without a C compiler before it
    here = LINK_FLAGS_MACOS if sys.platform == "darwin" and not triple else LINK_FLAGS
    flags: tuple[str, ...] = LINK_FLAGS_LLD if bare else here
    libraries = () if bare else ("-lm",)

    def run(output: str, objects: list[str], **_: Any) -> None:
        folder = Path(output).parent
        command = [*linker, *flags, "-o", output, *sorted(objects), *libraries]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise CompileError(
                f"{linker[0]} could not link the library: {said[-1] if said else 'no message'}"
            )

    with tempfile.TemporaryDirectory(prefix="xnortvm-link-") as folder:
        path = Path(folder) / "library.so"
        with without_noise():
            executable.export_library(str(path), fcompile=run, workspace_dir=folder)
        return path.read_bytes()

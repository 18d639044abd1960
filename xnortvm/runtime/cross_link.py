# SPDX-License-Identifier: Apache-2.0
"""Linkers for other machines, and whether what they made can be loaded there.

TVM emits whole objects, so linking needs no headers and no libraries of the board. A cross gcc
binds to the glibc that it came with; zig binds to the one that it is told.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from typing import NamedTuple

from xnortvm._triples import family_of
from xnortvm.errors import CompileError, MissingDependencyError
from xnortvm.runtime.elf import Elf, dotted, is_elf, read_elf

#: What libraries may need at most: TVM's own wheels for aarch64 are tagged manylinux_2_28.
GLIBC_LIMIT = (2, 28)
#: What zig is told to bind to; TVM's runtime for aarch64 needs as much.
GLIBC_ZIG = "2.27"

# Also lld of a distribution's versioned packages.
_LLD = ("ld.lld", *(f"ld.lld-{version}" for version in range(22, 13, -1)))

# No build id: equal objects give equal libraries. No debug sections: a tenth of ResNet-18's file.
_GNU = ("-shared", "-fPIC", "-Wl,--build-id=none", "-Wl,-S")
_MACOS = ("-dynamiclib", "-undefined", "dynamic_lookup", "-Wl,-S")


class Linker(NamedTuple):
    """A way to make a shared library.

    Attributes
    ----------
    command : tuple of str
        Program and its first arguments.
    flags : tuple of str
        What makes it write a shared library.
    libraries : tuple of str
        What stands behind the objects.
    """

    command: tuple[str, ...]
    flags: tuple[str, ...] = _GNU
    libraries: tuple[str, ...] = ("-lm",)


def find_cross_linkers(triple: str) -> list[Linker]:
    """Return the linkers for another machine that are installed, best first.

    Parameters
    ----------
    triple : str
        Such as ``"aarch64-linux-gnu"`` (`Target.link`).

    Raises
    ------
    MissingDependencyError
        When there is none; says which command installs one without root.
    """
    found = [_gcc(triple), _lld(triple), _zig(triple)]
    linkers = [linker for linker in found if linker is not None]
    if not linkers:
        gcc = f"gcc-{triple}"
        system = f" (or, on Debian and Ubuntu, sudo apt install {gcc})" if "gnu" in triple else ""
        raise MissingDependencyError(
            f"saving a model for {triple} needs a cross linker and neither {triple}-gcc, ld.lld "
            f'nor zig was found; run: pip install "xnortvm[cross]"{system}'
        )
    return linkers


def _gcc(triple: str) -> Linker | None:
    path = shutil.which(f"{triple}-gcc")
    return Linker((path,)) if path else None


def _lld(triple: str) -> Linker | None:
    """Bare lld links ELF only, and binds to no library: symbols are looked up when it is loaded."""
    path = next(filter(None, map(shutil.which, _LLD)), None)
    if path is None or "linux" not in triple:
        return None
    return Linker((path,), ("-shared", "--build-id=none", "-S"), ())


def _zig(triple: str) -> Linker | None:
    if importlib.util.find_spec("ziglang") is None:
        return None
    zig = (sys.executable, "-m", "ziglang", "cc", "-target")
    arch = triple.partition("-")[0]
    if "apple" in triple:
        return Linker((*zig, f"{arch}-macos"), _MACOS)
    if "android" in triple:  # zig has no libc of Android: symbols are looked up when it is loaded
        return Linker((*zig, triple), (*_GNU, "-nostdlib"), ())
    return Linker((*zig, f"{triple}.{GLIBC_ZIG}" if "gnu" in triple else triple))


def check_library(library: bytes, triple: str, linker: str) -> Elf | None:
    """Refuse a library that the machine it was made for could not load.

    Parameters
    ----------
    library : bytes
        What came out.
    triple : str
        Of the machine that it is for.
    linker : str
        Who made it, for the message.

    Returns
    -------
    Elf or None
        What it needs; None of a library that is no ELF file (macOS, Windows).

    Raises
    ------
    CompileError
        When it is of another machine or needs a newer glibc than boards have.
    """
    if not is_elf(library) and "linux" not in triple:
        return None
    made = read_elf(library)
    family = family_of(triple).name
    if family != "other" and made.machine != family:
        raise CompileError(
            f"{linker} made a library for {made.machine} where one for {triple} was asked for; "
            'install a linker for that machine with: pip install "xnortvm[cross]"'
        )
    if made.glibc > GLIBC_LIMIT:
        raise CompileError(
            f"{linker} made a library for {triple} that needs glibc {dotted(made.glibc)}, and "
            f"boards that TVM's runtime supports may have {dotted(GLIBC_LIMIT)}; pip install "
            f'"xnortvm[cross]" installs a linker that asks for {GLIBC_ZIG}'
        )
    return made

# SPDX-License-Identifier: Apache-2.0
"""What running a compiled model needs of TVM: its runtime, and no compiler.

A board needs `libtvm_ffi.so` and `libtvm_runtime.so` only; TVM's Relax, TIR and LLVM live in
`libtvm_compiler.so`, 240 MB that may be deleted there. `xnortvm.load` and what it imports take
TVM's names from here; everything that compiles takes them from `xnortvm._tvm`. Importing it checks
the versions of the installed packages *before* TVM is loaded (a wrong `apache-tvm-ffi` crashes the
process instead of raising) and quietens TVM's own logging.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
from typing import NamedTuple

from xnortvm.errors import VersionError


class Pin(NamedTuple):
    """Accepted versions of one package: ``low <= version < below``, by release numbers."""

    package: str
    low: tuple[int, ...]
    below: tuple[int, ...]
    install: str
    why: str


PINS = (
    Pin(
        "apache-tvm",
        (0, 27),
        (0, 28),
        "apache-tvm==0.27.0.post1",
        "TVM renames its Python modules from release to release",
    ),
    Pin(
        "apache-tvm-ffi",
        (0, 1, 14),
        (0, 1, 15),
        "apache-tvm-ffi>=0.1.14.post0,<0.1.15",
        "0.1.15 crashes the process when TVM saves a module or tensorizes a loop",
    ),
)


def release(version: str) -> tuple[int, ...]:
    """Return the release numbers of a version: ``"0.1.14.post1"`` gives ``(0, 1, 14)``."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in match.group().split(".")) if match else ()


def installed_version(package: str) -> str | None:
    """Return the installed version of a distribution, None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_versions() -> None:
    """Refuse versions of TVM that are known not to work.

    Raises
    ------
    VersionError
        With the command that installs a version that works.
    """
    for pin in PINS:
        found = installed_version(pin.package)
        if found is None:
            raise VersionError(f'{pin.package} is not installed; run: pip install "{pin.install}"')
        if not pin.low <= release(found) < pin.below:
            raise VersionError(
                f"{pin.package} {found} is installed and xnortvm needs {pin.install} "
                f'({pin.why}); run: pip install "{pin.install}"'
            )


check_versions()
logging.getLogger("tvm").setLevel(logging.WARNING)

import tvm  # noqa: E402
import tvm_ffi  # noqa: E402
from tvm import runtime  # noqa: E402
from tvm.base import _RUNTIME_ONLY  # noqa: E402
from tvm.runtime.vm import VirtualMachine  # noqa: E402

#: Whether TVM's compiler library is missing, or left out by ``TVM_USE_RUNTIME_LIB=1``.
RUNTIME_ONLY = bool(_RUNTIME_ONLY)

__all__ = [
    "PINS",
    "RUNTIME_ONLY",
    "Pin",
    "VirtualMachine",
    "check_versions",
    "installed_version",
    "release",
    "runtime",
    "tvm",
    "tvm_ffi",
]

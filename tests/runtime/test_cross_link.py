# SPDX-License-Identifier: Apache-2.0
"""Libraries for other machines: which linker is used, what comes out, what is said without one."""

from __future__ import annotations

import importlib.util
import shutil
import struct

import pytest

from xnortvm.errors import MissingDependencyError
from xnortvm.runtime.build import build
from xnortvm.runtime.link import find_cross_linker
from xnortvm.target import resolve

from .conftest import one_input, relax_module

ELF_MACHINES = {"rpi4": 183, "armv7": 40}


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_cross_linker_says_what_installs_one_without_root() -> None:
    with pytest.raises(MissingDependencyError, match=r"aarch64-linux-gnu.*xnortvm\[cross\]"):
        find_cross_linker("aarch64-linux-gnu")


def test_a_cross_gcc_is_preferred_to_lld_and_lld_to_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"aarch64-linux-gnu-gcc": "/bin/cross-gcc", "ld.lld": "/bin/ld.lld"}
    monkeypatch.setattr(shutil, "which", found.get)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert find_cross_linker("aarch64-linux-gnu") == ["/bin/cross-gcc"]
    del found["aarch64-linux-gnu-gcc"]
    assert find_cross_linker("aarch64-linux-gnu") == ["/bin/ld.lld"]
    del found["ld.lld"]
    assert find_cross_linker("aarch64-linux-gnu")[-2:] == ["-target", "aarch64-linux-gnu"]


@pytest.mark.parametrize("preset", ELF_MACHINES)
def test_the_library_is_code_of_the_machine_that_was_asked_for(preset: str) -> None:
    pytest.importorskip("ziglang")
    mod = relax_module([("x", (1, 8), "float32")], one_input)
    library = build(mod, resolve(preset)).library
    assert library[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", library, 18)[0] == ELF_MACHINES[preset]

# SPDX-License-Identifier: Apache-2.0
"""Libraries for other machines: which linker is used, what comes out, what is said without one."""

from __future__ import annotations

import importlib.util
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from xnortvm.errors import CompileError, MissingDependencyError
from xnortvm.runtime import cross_link, link
from xnortvm.runtime.build import Built, build
from xnortvm.runtime.cross_link import GLIBC_LIMIT, check_library, find_cross_linkers
from xnortvm.runtime.elf import Elf, glibc_of, read_elf
from xnortvm.target import resolve

from .conftest import one_input, relax_module

ARM64 = "aarch64-linux-gnu"
ELF = {"rpi4": ("aarch64", 64), "armv7": ("arm", 32), "pixel6": ("aarch64", 64)}


@pytest.fixture(scope="module")
def builds() -> dict[str, Built]:
    mod = relax_module([("x", (1, 8), "float32")], one_input)
    return {preset: build(mod, resolve(preset)) for preset in (*ELF, "apple-m1")}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is found on the search path, and zig; nothing at first."""
    found: dict[str, str] = {}
    monkeypatch.setattr(shutil, "which", found.get)
    monkeypatch.setattr(importlib.util, "find_spec", found.get)
    return found


def test_a_missing_cross_linker_says_what_installs_one(installed):
    with pytest.raises(MissingDependencyError, match=r"pip install \"xnortvm\[cross\]\"") as caught:
        find_cross_linkers(ARM64)
    assert "sudo apt install gcc-aarch64-linux-gnu" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cross_gcc_is_preferred_to_lld_and_lld_to_zig(installed):
    installed.update({"ziglang": "", "ld.lld-19": "/bin/ld.lld-19"})
    installed["aarch64-linux-gnu-gcc"] = "/bin/cross-gcc"
    gcc, lld, zig = find_cross_linkers(ARM64)
    assert (gcc.command, lld.command) == (("/bin/cross-gcc",), ("/bin/ld.lld-19",))
    assert zig.command[-1] == "aarch64-linux-gnu.2.27"
    assert lld.libraries == ()


def test_lld_is_not_asked_for_what_it_cannot_link(installed):
    installed["ld.lld"] = "/bin/ld.lld"
    with pytest.raises(MissingDependencyError, match="aarch64-apple-macos"):
        find_cross_linkers("aarch64-apple-macos")


@pytest.mark.parametrize("preset", ELF)
def test_the_library_is_code_of_the_machine_that_was_asked_for(preset: str, builds):
    pytest.importorskip("ziglang")
    made = read_elf(builds[preset].library)
    assert (made.machine, made.bits) == ELF[preset]
    assert made.glibc <= (2, 27)


@pytest.mark.parametrize("preset", [*ELF, "apple-m1"])
def test_zig_links_for_every_board(preset: str, builds, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ziglang")
    monkeypatch.setattr(cross_link, "_gcc", lambda triple: None)
    monkeypatch.setattr(cross_link, "_lld", lambda triple: None)
    library = link.link(builds[preset].executable, builds[preset].target.link)
    if preset == "apple-m1":
        assert library[:4] == struct.pack("<I", 0xFEEDFACF)  # Mach-O of 64 bits
    else:
        assert read_elf(library).machine == ELF[preset][0]


def test_zig_binds_to_the_glibc_that_it_is_told(tmp_path: Path):
    """log of C is newer in newer glibcs: linked for 2.35 it could not be loaded on older boards."""
    pytest.importorskip("ziglang")
    source = tmp_path / "log.c"
    source.write_text("double log(double); double f(double x) { return log(x); }")
    zig = cross_link._zig(ARM64)
    assert zig is not None
    for version, needed in (("2.35", (2, 29)), (cross_link.GLIBC_ZIG, (2, 17))):
        made = tmp_path / "log.so"
        command = [*zig.command[:-1], f"{ARM64}.{version}", *zig.flags, "-o", made, source, "-lm"]
        subprocess.run(command, check=True)
        library = made.read_bytes()
        assert read_elf(library).glibc == needed
        assert glibc_of(library) == ".".join(map(str, needed))
        if needed > GLIBC_LIMIT:
            with pytest.raises(CompileError, match=r"needs glibc 2\.29.*may have 2\.28.*2\.27"):
                check_library(library, ARM64, "cross-gcc")


def test_a_library_of_another_machine_is_refused(model):
    with pytest.raises(CompileError, match=r"made a library for x86_64 where.*xnortvm\[cross\]"):
        check_library(model.library, ARM64, "gcc")


def test_when_one_linker_makes_what_does_not_fit_the_next_one_is_tried(
    builds, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A compiler of this machine is no cross compiler, whatever its name."""
    zig = cross_link._zig(ARM64)
    if zig is None or not shutil.which("cc"):
        pytest.skip("needs zig and a C compiler")
    wrong = cross_link.Linker(("cc",))
    monkeypatch.setattr(link, "find_cross_linkers", lambda triple: [wrong, zig])
    with caplog.at_level("INFO", "xnortvm"):
        assert read_elf(link.link(builds["rpi4"].executable, ARM64)).machine == "aarch64"
    assert "trying the next linker: cc could not link" in caplog.text
    monkeypatch.setattr(link, "find_cross_linkers", lambda triple: [wrong])
    with pytest.raises(CompileError, match="cc could not link the library"):
        link.link(builds["rpi4"].executable, ARM64)


def test_what_is_no_library_is_refused(model):
    library = model.library
    with pytest.raises(CompileError, match="no ELF library"):
        check_library(b"MZ", ARM64, "gcc")
    with pytest.raises(CompileError, match="damaged ELF library"):
        read_elf(library[: len(library) // 2])
    with pytest.raises(CompileError, match="damaged ELF library"):
        read_elf(b"\x7fELF\x09\x01" + bytes(64))


def test_big_endian_headers_are_read():
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x02"
    header[18:20] = (243).to_bytes(2, "big")
    assert read_elf(bytes(header)) == Elf("riscv", 64, ())

# SPDX-License-Identifier: Apache-2.0
"""What is missing is said in one sentence with the command that installs it."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from xnortvm.emulation import needs
from xnortvm.errors import CompileError, MissingDependencyError

AARCH64 = needs.MACHINES["aarch64-linux-gnu"]


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("LLVM_MCA", raising=False)
    needs.find_models.cache_clear()
    needs.plugin.cache_clear()
    yield
    needs.find_models.cache_clear()
    needs.plugin.cache_clear()


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))


@pytest.mark.usefixtures("nothing_installed")
def test_each_missing_program_says_what_installs_it() -> None:
    with pytest.raises(MissingDependencyError, match=r"qemu-aarch64.*apt install qemu-user"):
        needs.find_qemu(AARCH64)
    with pytest.raises(MissingDependencyError, match=r'pip install "xnortvm\[cross\]"'):
        needs.find_cross_compiler(AARCH64)
    with pytest.raises(MissingDependencyError, match=r"llvm-mca 19 or newer.*apt install llvm-19"):
        needs.find_models()
    assert "qemu-aarch64" in str(needs.missing("aarch64-linux-gnu"))
    assert "llvm-mca" in str(needs.missing_for_costs())


def _executable(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_cross_compiler_without_a_c_library_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gcc = _executable(tmp_path / AARCH64.gcc, 'echo "${1#-print-file-name=}"')
    monkeypatch.setattr(shutil, "which", lambda name: str(gcc) if name == AARCH64.gcc else None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert needs.find_cross_compiler(AARCH64)[-2:] == ["-target", "aarch64-linux-musl"]


def test_an_old_llvm_is_named_and_a_newer_one_beside_it_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(needs, "LLVM_AT_LEAST", 38)
    for name in ("llvm-mca", "llvm-mc"):
        _executable(tmp_path / name, "echo 'LLVM version 14.0.6'")
    with pytest.raises(MissingDependencyError, match=r"llvm-mca is 14\.0\.6"):
        needs.find_models()
    for name in ("llvm-mca-39", "llvm-mc-39"):
        _executable(tmp_path / name, "echo 'LLVM version 39.1.0'")
    found = needs.find_models()
    assert (Path(found.mca).name, Path(found.mc).name) == ("llvm-mca-39", "llvm-mc-39")
    assert found.version == "39.1.0"


def test_a_named_llvm_that_cannot_be_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLVM_MCA", "/nowhere/llvm-mca")
    with pytest.raises(MissingDependencyError, match="LLVM_MCA names '/nowhere/llvm-mca'"):
        needs.find_models()


def test_x86_is_not_emulated() -> None:
    assert "aarch64-linux-gnu" in str(needs.missing("riscv64-linux-gnu"))
    assert "this machine" in str(needs.missing(None))


@pytest.mark.parametrize(("version", "api"), [("7.2.22", 1), ("8.2.2", 2), ("9.1", 3), ("10.0", 3)])
def test_the_plugin_is_made_for_the_interface_of_the_emulator(version: str, api: int) -> None:
    assert needs._plugin_api(version) == api


def test_the_plugin_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = needs.plugin()
    assert made.exists()
    before = made.stat().st_mtime_ns
    needs.plugin.cache_clear()
    assert needs.plugin() == made
    assert made.stat().st_mtime_ns == before
    assert list(made.parent.iterdir()) == [made]


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    broken = _executable(tmp_path / "broken-cc", "echo 'no such thing' >&2; exit 1")
    with pytest.raises(CompileError, match=r"broken-cc .*: no such thing"):
        needs.do([str(broken)])

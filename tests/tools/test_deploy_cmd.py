# SPDX-License-Identifier: Apache-2.0
"""``deploy``: a folder arrives on a board, is tested there, and what goes wrong is one sentence."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from .small_model import saved
from .stand_in import StandIn


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("llvm", tmp_path_factory.mktemp("model") / "out")


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn(tmp_path / "board")
    monkeypatch.setenv("PATH", f"{stand_in.path}{os.pathsep}{os.environ['PATH']}")
    return stand_in


def deploy(cli, out: Path, *options: object, host: str = "pi@board"):
    return cli("deploy", out, "--ssh", host, "--repeats", 2, *options)


def test_a_folder_is_copied_tested_and_timed(cli, out: Path, board: StandIn):
    ran = deploy(cli, out)
    assert ran.status == 0, ran.err
    assert "The self-test passed." in ran.out
    assert "ms (milliseconds) per call" in ran.out
    assert (board.home / "models/out/library.so").read_bytes() == (out / "library.so").read_bytes()
    assert os.listdir(board.home / "models") == ["out"]


def test_a_second_deployment_replaces_the_first(cli, out: Path, board: StandIn):
    for _ in range(2):
        data = deploy(cli, out, "--to", "~/a folder", "--json").data
    assert data["passed"] is True
    assert data["latency"]["runs"] == 2
    assert (board.home / "a folder/manifest.json").exists()


def test_wrong_outputs_are_status_1(cli, board: StandIn, tmp_path: Path):
    ran = deploy(cli, saved("llvm", tmp_path / "wrong", expected=3.0))
    assert ran.status == 1
    assert "WRONG" in ran.out
    assert "The self-test FAILED" in ran.out


def fails(cli, reason: str, *arguments: object, **options: str) -> None:
    ran = deploy(cli, *arguments, **options)
    assert ran.status == 1
    assert reason in ran.err
    assert len([line for line in ran.err.splitlines() if "error" in line]) == 1
    assert ran.out == ""


def test_an_unreachable_host(cli, out: Path, board: StandIn):
    reason = (
        "pi@moon cannot be reached: ssh: connect to host pi@moon port 22: No route to host; try"
    )
    fails(cli, reason, out, host="pi@moon")


def test_no_ssh_here(cli, out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    fails(cli, "apt install openssh-client", out)


def test_no_python_there(cli, out: Path, board: StandIn):
    reason = "pi@board cannot run python9:"
    fails(cli, reason, out, "--python", "python9")


def test_no_runtime_there(cli, out: Path, board: StandIn):
    board.program("python3", f'exec {sys.executable} -S -I "$@"')
    reason = "lacks xnortvm, tvm, tvm_ffi, numpy; run there: python3 -m pip install xnortvm"
    fails(cli, reason, out)


def test_a_board_of_another_architecture(cli, out: Path, board: StandIn):
    board.program("uname", "echo riscv64")
    fails(cli, "pi@board is a riscv64 machine and the model was compiled for llvm -m", out)
    assert os.listdir(board.home) == []


def test_a_cpu_without_the_instructions(cli, out: Path, board: StandIn, tmp_path: Path):
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["machine"]["features"] = ["quantum"]
    odd = saved("llvm", tmp_path / "odd")
    (odd / "manifest.json").write_text(json.dumps(manifest))
    fails(cli, "could not run: models/odd was compiled for llvm", odd)


def test_a_folder_of_other_files_on_the_board_is_not_replaced(cli, out: Path, board: StandIn):
    (board.home / "thesis.tex").write_text("years of work")
    fails(cli, "could not be copied to pi@board:.: it holds other files", out, "--to", ".")
    assert (board.home / "thesis.tex").exists()


def test_a_self_test_that_dies(cli, out: Path, board: StandIn):
    dies = f'[ "$1" = - ] && exec {sys.executable} "$@"; kill -ILL $$'
    board.program("python3", dies)
    fails(cli, "the self-test on pi@board ended with signal 4", out)


def test_a_self_test_that_hangs(cli, out: Path, board: StandIn):
    board.program("python3", f'[ "$1" = - ] && exec {sys.executable} "$@"; exec sleep 60')
    fails(cli, "pi@board did not answer within 0.5 s", out, "--timeout", 0.5)


def test_what_is_no_folder_with_examples(cli, out: Path, board: StandIn, tmp_path: Path):
    fails(cli, "there is no file", tmp_path / "nothing")
    fails(cli, "it holds no manifest.json", tmp_path)
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["selftest"]
    bare = saved("llvm", tmp_path / "bare")
    (bare / "manifest.json").write_text(json.dumps(manifest))
    fails(cli, "is no folder with example inputs; write one with xnortvm compile", bare)


@pytest.mark.skipif(platform.machine() == "aarch64", reason="needs another architecture")
def test_code_for_a_raspberry_pi_is_not_sent_to_this_machine(cli, board: StandIn, tmp_path: Path):
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("needs zig")
    fails(cli, "which means aarch64-linux-gnu; compile it with", saved("rpi4", tmp_path / "pi"))

# SPDX-License-Identifier: Apache-2.0
"""A board of arm64 in the emulator: Python, C and C++, ssh and RPC, with TVM's real runtime.

Skipped unless XNORTVM_ARM64_ROOT names a root; `make test-arm-deploy` builds one and runs this.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import xnortvm
from xnortvm.models import build, random_input
from xnortvm.runtime.folder import Example
from xnortvm.runtime.selftest import compare
from xnortvm.tools.cli import main

from ..tools.small_model import saved
from ..tools.stand_in import ROOT, StandIn, script
from ..tools.trackers import running_tracker
from .root import Root, find_root

FOUND = find_root()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(isinstance(FOUND, str), reason=str(FOUND)),
]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def root() -> Root:
    assert isinstance(FOUND, Root)
    return FOUND


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet for a Raspberry Pi 4; the outputs that PyTorch computes are expected."""
    model = build("lenet")
    image = random_input(model)
    compiled = xnortvm.compile(model, target="rpi4", example_inputs=image)
    example = Example((image.numpy(),), (model(image).detach().numpy(),), 1e-5)
    return compiled.save_folder(tmp_path_factory.mktemp("model") / "out", example)


@pytest.fixture
def board(root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    board = StandIn(tmp_path / "board")
    board.program("python3", f'exec {shlex.join(root.command(ROOT))} "$@"')
    board.program("uname", "echo aarch64")
    monkeypatch.setenv("PATH", f"{board.path}{os.pathsep}{os.environ['PATH']}")
    return board


def test_python_on_the_board_loads_and_runs_the_model(root: Root, out: Path):
    program = (
        "import sys, numpy as np, xnortvm; model = xnortvm.load(sys.argv[1]); "
        "x = np.fromfile(sys.argv[1] + '/example/inputs0.bin', 'float32').reshape(1, 1, 28, 28); "
        "np.save(sys.argv[2], model(x)); print(*[n for n in ('torch', 'onnx') if n in sys.modules])"
    )
    written = out.parent / "y.npy"
    command = [*root.command(ROOT), "-c", program, out, written]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n"
    expected = np.fromfile(out / "example/outputs0.bin", "float32").reshape(1, 10)
    assert compare(["y"], np.load(written), [expected], 1e-5)[0].fits


def test_deploy_copies_to_the_board_and_its_self_test_passes(out: Path, board: StandIn, capsys):
    assert main(["deploy", str(out), "--ssh", "pi@board", "--repeats", "3"]) == 0
    printed = capsys.readouterr().out
    assert "on aarch64" in printed
    assert "The self-test passed." in printed


def test_code_for_this_machine_is_not_sent_there(board: StandIn, tmp_path: Path, capsys):
    folder = saved("x86-64-v3", tmp_path / "x86")
    assert main(["deploy", str(folder), "--ssh", "pi@board"]) == 1
    assert "is a aarch64 machine and the model was compiled for" in capsys.readouterr().err


@pytest.fixture(scope="module")
def programs(root: Root, out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder's programs, built for aarch64 with a cross compiler."""
    gcc = "aarch64-linux-gnu-gcc"
    if not shutil.which(gcc) or not shutil.which("cmake"):
        pytest.skip(f"needs cmake and {gcc} (sudo apt install cmake g++-aarch64-linux-gnu)")
    built = tmp_path_factory.mktemp("programs")
    tools = [f"-DCMAKE_C_COMPILER={gcc}", f"-DCMAKE_CXX_COMPILER={gcc[:-3]}g++"]
    for command in (
        ["cmake", "-S", out, "-B", built, f"-DTVM_SITE={root.site}", *tools],
        ["cmake", "--build", built],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return built


@pytest.mark.parametrize("program", ["c", "cpp", "static_c", "static_cpp"])
def test_the_programs_run_on_the_board(root: Root, out: Path, programs: Path, program: str):
    command = ["qemu-aarch64", "-L", root.folder, programs / f"example_{program}", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "as expected" in done.stdout


def test_a_board_behind_the_tracker_runs_the_model(root: Root, out: Path, tmp_path: Path, capsys):
    wrapper = tmp_path / "python3"
    script(wrapper, f'#!/bin/sh\nexec {shlex.join(root.command())} "$@"\n')
    with running_tracker() as tracker:
        tracker.serve("rpi4", [*root.command(), HERE / "rpc_server.py", wrapper])
        where = ["--rpc", tracker.address, "--key", "rpi4"]
        assert main(["bench", str(out), *where]) == 0
        assert "as expected" in capsys.readouterr().out
        folder = saved("x86-64-v3", tmp_path / "x86")
        assert main(["bench", str(folder), *where]) == 1
        assert "cannot load a library for x86_64" in capsys.readouterr().err

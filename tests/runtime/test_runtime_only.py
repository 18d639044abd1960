# SPDX-License-Identifier: Apache-2.0
"""TVM's runtime alone, as on a board: loading and calling work, compiling says what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xnortvm.errors import TargetError
from xnortvm.runtime import board, host
from xnortvm.runtime.host import Machine, check_host
from xnortvm.runtime.module import CompiledModel

ROOT = Path(__file__).parent.parent.parent

CALL = """
import sys
for name in ("torch", "onnx", "xnortvm.models"):
    sys.modules[name] = None  # an import of it raises
import numpy as np, xnortvm
model = xnortvm.load(sys.argv[1])
print(model(np.full((2, 3, 8), 1.0, "float32")).sum())
try:
    xnortvm.compile
except xnortvm.XnortvmError as error:
    print(error)
"""


def test_a_model_is_loaded_and_called_without_compiler_torch_and_onnx(
    model: CompiledModel, tmp_path: Path
):
    saved = model.save(tmp_path / "model.xnor")
    environment = os.environ | {"TVM_USE_RUNTIME_LIB": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CALL, saved],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    total, refusal = done.stdout.splitlines()
    assert float(total) == 2 * 3 * 8 * 3.0
    assert "compile on another machine" in refusal


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "RUNTIME_ONLY", True)


@pytest.mark.usefixtures("without_compiler")
def test_code_for_another_architecture_is_refused():
    with pytest.raises(TargetError, match=r"m was made.*riscv64-linux-gnu.*this machine is"):
        check_host(Machine("riscv64-unknown-linux-gnu", ()), "m was made")


@pytest.mark.usefixtures("without_compiler")
def test_features_that_the_kernel_denies_are_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(board, "triple", lambda: "aarch64-unknown-linux-gnu")
    monkeypatch.setattr(board.sys, "platform", "linux")
    monkeypatch.setattr(board.platform, "machine", lambda: "aarch64")
    monkeypatch.setitem(board._READERS, "aarch64", lambda: {"neon": True, "dotprod": False})
    check_host(Machine("aarch64-unknown-linux-gnu", ("neon", "unheard-of")), "m")
    with pytest.raises(TargetError, match="CPU features dotprod that this machine lacks"):
        check_host(Machine("aarch64-unknown-linux-gnu", ("dotprod", "neon")), "m")


def test_this_machine_has_the_features_that_llvm_says_it_has():
    from xnortvm.target import resolve

    here = resolve("llvm")
    assert board.triple() == here.triple
    assert board.missing_features(tuple(here.features)) == []

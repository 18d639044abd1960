# SPDX-License-Identifier: Apache-2.0
"""A compiler that answers at once, so that the command line is tested and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import xnortvm
from xnortvm.emulation import needs
from xnortvm.errors import OutputError
from xnortvm.runtime.interface import TensorSpec
from xnortvm.tools.cli import main


class Ran(NamedTuple):
    """What a command printed and how it ended."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The JSON that it printed; fails when anything else was printed beside it."""
        return json.loads(self.out)


class FakeReport:
    """The report of a model with one binary layer."""

    num_binary_ops = 1
    isa = "avx2"

    def __str__(self) -> str:
        return "layer  conv1  binary"

    def to_json(self) -> dict[str, Any]:
        return {"layers": [{"name": "conv1", "binary": True}]}


class FakeModel:
    """A compiled model that doubles its input."""

    report = FakeReport()
    target_name = "llvm -mcpu=fake"
    inputs = (TensorSpec("x", (1, 3), "float32"),)

    def __call__(self, x: Any) -> Any:
        print("noise on standard output")
        return np.asarray(x) * 2

    def save(self, path: Path) -> Path:
        if Path(path).stem == "full":
            raise OutputError(f"{path} cannot be written: no space left on device")
        Path(path).write_text("saved")
        return Path(path)

    def save_freestanding(self, path: Path, prefix: str) -> Any:
        path.mkdir()
        (path / f"{prefix}.o").write_text("object")
        return SimpleNamespace(sizes={"code": 1234, "weights": 5, "workspace": 6})

    def save_folder(self, path: Path, example: Any) -> Path:
        path.mkdir(exist_ok=True)
        (path / "saved").write_text(f"bound {example.bound:g}")
        return path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command line: ``cli("targets", "--json")``."""

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        return Ran(status, *capsys.readouterr())

    return run


@pytest.fixture
def emulation() -> None:
    """Skip where ARM cores can be neither emulated nor modelled."""
    reason = needs.missing_for_costs()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, dict[str, Any]]]:
    """Replace the API; returns the list of calls made to it."""
    calls: list[tuple[str, Any, dict[str, Any]]] = []

    def answer(name: str, result: Any) -> Callable[..., Any]:
        def call(model: Any, **options: Any) -> Any:
            calls.append((name, model, options))
            return result

        return call

    for name, result in (
        ("compile", FakeModel()),
        ("explain", FakeReport()),
        ("load", FakeModel()),
    ):
        monkeypatch.setitem(vars(xnortvm), name, answer(name, result))
    return calls

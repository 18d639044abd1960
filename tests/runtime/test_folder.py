# SPDX-License-Identifier: Apache-2.0
"""A model as a folder: what it holds, that it is never half-written, its programs right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import xnortvm
from xnortvm.errors import ModelError, OutputError, TargetError
from xnortvm.runtime import board, bundle, selftest
from xnortvm.runtime.folder import Example
from xnortvm.runtime.module import CompiledModel

A = np.arange(4, dtype="float32")
EXAMPLE = Example((A, A + 1), (A + A + 1, A * (A + 1)), 1e-5)
SITE = Path(np.__file__).parent.parent


@pytest.fixture
def out(two_by_two: CompiledModel, tmp_path: Path) -> Path:
    return two_by_two.save_folder(tmp_path / "out", EXAMPLE)


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_the_manifest_says_what_a_program_needs_to_know(out: Path):
    manifest = manifest_of(out)
    assert [spec["name"] for spec in manifest["interface"]["inputs"]] == ["a", "b"]
    assert manifest["interface"]["outputs"][1] == {
        "name": "output1",
        "shape": [4],
        "dtype": "float32",
    }
    assert manifest["target"].startswith("llvm -mtriple=")
    assert set(manifest["versions"]) == {"xnortvm", "apache-tvm", "apache-tvm-ffi"}
    assert {"library.so", "report.json", "example/inputs0.bin"} <= set(manifest["sha256"])
    assert manifest["selftest"]["outputs"][0]["file"] == "example/outputs0.bin"
    assert "glibc" in manifest


def test_a_folder_is_loaded_like_a_file(out: Path, two_by_two: CompiledModel, tmp_path: Path):
    model = xnortvm.load(out)
    np.testing.assert_array_equal(model(A, A)[1], A * A)
    file = manifest_of(out)
    two_by_two.save(tmp_path / "model.xnor")
    saved, _ = bundle.read(tmp_path / "model.xnor")
    assert {k: v for k, v in file.items() if k not in ("sha256", "selftest")} == {
        k: v for k, v in saved.items() if k != "sha256"
    }
    assert model.save_folder(tmp_path / "again").is_dir()  # without example and objects


def test_the_self_test_compares_and_times(out: Path):
    test = selftest.run(out, repeats=3)
    assert test.passed
    assert [each.largest for each in test.outputs] == [0.0, 0.0]
    assert test.latency.runs == 3


def test_the_self_test_is_a_command_that_prints_json(out: Path):
    command = [sys.executable, "-m", "xnortvm.runtime.selftest", out, "--repeats", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(xnortvm.__file__).parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout)["passed"] is True


def test_wrong_outputs_fail_the_self_test(two_by_two: CompiledModel, tmp_path: Path, capsys):
    wrong = Example(EXAMPLE.inputs, (EXAMPLE.outputs[0], EXAMPLE.outputs[1] + 1), 1e-5)
    folder = two_by_two.save_folder(tmp_path / "out", wrong)
    assert selftest.main([str(folder), "--repeats", "1"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [each["fits"] for each in said["outputs"]] == [True, False]


@pytest.mark.parametrize(
    ("got", "want", "largest", "fits"),
    [
        ([1, 2], [1, 2], 0.0, True),
        ([1.0, 2.0 + 1e-5], [1.0, 2.0], 5e-6, True),
        ([1.0, np.nan], [1.0, np.nan], 0.0, True),
        ([1.0, np.nan], [1.0, 2.0], np.nan, False),
        ([np.inf, 1.0], [np.inf, 1.0], 0.0, True),
        ([np.inf, 1.0], [2.0, 1.0], np.inf, False),
        ([0.0], [0.0], 0.0, True),
        ([1e-3], [0.0], 1e-3, False),
        ([1, 3], [1, 2], 0.5, False),
        ([True], [True], 0.0, True),
        ([[1.0]], [1.0], np.inf, False),
    ],
)
def test_outputs_are_compared_with_care(got, want, largest: float, fits: bool):
    (difference,) = selftest.compare(["y"], np.array(got), [np.array(want)], 1e-5)
    assert difference.fits is fits
    assert difference.largest == pytest.approx(largest, nan_ok=True, rel=0.01)


def test_a_folder_without_example_says_how_to_write_one(two_by_two, tmp_path: Path, capsys):
    folder = two_by_two.save_folder(tmp_path / "out")
    assert selftest.main([str(folder)]) == 1
    assert "holds no example inputs" in json.loads(capsys.readouterr().out)["error"]


def test_damage_is_found(out: Path):
    (out / "example/outputs0.bin").write_bytes(b"\0" * 16)
    with pytest.raises(ModelError, match=r"checksum of example/outputs0\.bin"):
        xnortvm.load(out)
    (out / "library.so").unlink()
    (out / "manifest.json").write_text((out / "manifest.json").read_text())
    with pytest.raises(ModelError, match=r"is damaged"):
        xnortvm.load(out)
    (out / "manifest.json").write_text("{")
    with pytest.raises(ModelError, match="manifest cannot be read"):
        xnortvm.load(out)


def test_programs_may_be_changed(out: Path):
    (out / "example.c").write_text("int main(void) { return 0; }")
    assert xnortvm.load(out).outputs


def test_a_folder_of_something_else_is_neither_read_nor_replaced(two_by_two, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ModelError, match=r"it holds no manifest\.json"):
        xnortvm.load(tmp_path)
    with pytest.raises(OutputError, match="holds other files; name a new or an empty one"):
        two_by_two.save_folder(tmp_path, EXAMPLE)
    with pytest.raises(OutputError, match="it is a file; name a folder"):
        two_by_two.save_folder(tmp_path / "thesis.tex", EXAMPLE)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_older_model_is_replaced_and_nothing_is_left_beside_it(out: Path, two_by_two):
    (out / "build").mkdir()
    two_by_two.save_folder(out, EXAMPLE)
    assert not (out / "build").exists()
    assert os.listdir(out.parent) == ["out"]


def test_a_failed_write_leaves_the_older_model(out: Path, two_by_two, monkeypatch):
    before = (out / "manifest.json").read_bytes()
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "outputs1.bin":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device"):
        two_by_two.save_folder(out, EXAMPLE)
    assert (out / "manifest.json").read_bytes() == before
    assert os.listdir(out.parent) == ["out"]


def test_a_machine_with_an_older_glibc_is_told(out: Path, monkeypatch):
    manifest = manifest_of(out) | {"glibc": "2.27"}
    (out / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(board, "glibc", lambda: "2.9")
    with pytest.raises(TargetError, match=r"needs glibc 2\.27 and this machine has 2\.9"):
        xnortvm.load(out)


def test_types_that_c_lacks_have_a_self_test_and_no_programs(two_by_two, tmp_path: Path):
    half = Example(tuple(a.astype("float16") for a in EXAMPLE.inputs), EXAMPLE.outputs, 1e-5)
    folder = two_by_two.save_folder(tmp_path / "out", half)
    assert manifest_of(folder)["selftest"]["inputs"][0]["dtype"] == "float16"
    assert not list(folder.glob("*.c*"))


def test_examples_are_short(out: Path):
    for name in ("example.c", "example.cpp"):
        assert len((out / name).read_text().splitlines()) <= 80


@pytest.fixture(scope="module")
def programs(two_by_two: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with its programs built."""
    if not shutil.which("cmake") or not shutil.which("c++"):
        pytest.skip("needs cmake and a C++ compiler")
    folder = two_by_two.save_folder(tmp_path_factory.mktemp("c") / "out", EXAMPLE)
    for command in (
        ["cmake", "-S", folder, "-B", folder / "build", f"-DTVM_SITE={SITE}"],
        ["cmake", "--build", folder / "build"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("program", ["c", "cpp", "static_c", "static_cpp"])
def test_the_programs_compute_what_was_expected(programs: Path, program: str):
    done = subprocess.run(
        [programs / "build" / f"example_{program}", programs],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("as expected") == 2


@pytest.mark.parametrize("program", ["c", "cpp", "static_c", "static_cpp"])
def test_the_programs_notice_wrong_outputs_and_missing_files(
    programs: Path, program: str, tmp_path: Path
):
    wrong = shutil.copytree(programs, tmp_path / "wrong", ignore=shutil.ignore_patterns("build"))
    (wrong / "example/outputs1.bin").write_bytes((A + 7).tobytes())
    command = programs / "build" / f"example_{program}"
    done = subprocess.run([command, wrong], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "WRONG" in done.stdout
    done = subprocess.run([command, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr

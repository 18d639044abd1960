# SPDX-License-Identifier: Apache-2.0
"""The bundle builds without a GPU, runs by itself, and says what did not work and why."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xnortvm.api import lower
from xnortvm.errors import OutputError
from xnortvm.target import resolve
from xnortvm.tools.gpu_bundle.__main__ import main
from xnortvm.tools.gpu_bundle.build import build
from xnortvm.tools.gpu_bundle.cases import cases
from xnortvm.tools.gpu_bundle.parts.main import Part, parts_of, read_result, run_part
from xnortvm.tools.gpu_bundle.parts.result import SkipPart, write
from xnortvm.tools.gpu_bundle.records import main as to_records
from xnortvm.tuning.find import file_for
from xnortvm.tuning.records import Records
from xnortvm.tuning.space import tasks_for
from xnortvm.tuning.task import Task

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="for x86-64 Linux"
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kernels of this CPU in the place of a GPU's: the same parts load, check and time them."""
    out = tmp_path_factory.mktemp("gpu") / "bundle"
    only = {"exact": "thresholds-c40", "times": "512-512_7-batch1"}
    chosen = [case for case in cases((1,)) if case.kind in only and only[case.kind] in case.name]
    assert len(chosen) == 2
    more = {"targets": ["llvm"], "batches": (1,), "pythons": (), "ceilings": ("75",)}
    build(out, chosen, tasks=lambda _: [_task()], **more)
    assert not (out / "site").exists()
    assert sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) < 12 << 20
    status, said = _run(out, tmp_path_factory.mktemp("none"), "--list")
    assert status == 0, said
    assert "exact:thresholds" in said
    return out


def _task() -> Task:
    """A kernel whose outputs are integers."""
    module, inputs = next(case for case in cases() if case.name == "dense-b8").make()
    graph = lower(module, example_inputs=inputs, sign_zero="+1")
    (task,) = (task for task in tasks_for(graph, resolve("llvm")) if task.key.op == "bdense")
    return task


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def _run(bundle: Path, out: Path, *arguments: str) -> tuple[int, str]:
    """Run it as somebody would who has no xnortvm and no TVM."""
    done = subprocess.run(
        ["sh", str(bundle / "run.sh"), "--out", str(out), *arguments],
        env={"PATH": os.environ["PATH"], "PYTHON": sys.executable, "HOME": str(out.parent)},
        cwd=out.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def _manifest(bundle: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    return data


def _change(bundle: Path, **fields: Any) -> None:
    (bundle / "manifest.json").write_text(json.dumps({**_manifest(bundle), **fields}))


def test_manifest_has_versions_and_a_checksum_of_every_file(bundle: Path) -> None:
    manifest = _manifest(bundle)
    files = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    assert set(manifest["sha256"]) == files - {"manifest.json", "packed.tar.xz", ".unpacked"}
    for name, expected in manifest["sha256"].items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == expected
    assert manifest["versions"]["apache-tvm"].startswith("0.27")
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in manifest["pythons"]
    assert manifest["left_out"].keys() <= {"ceilings.fatbin", "libcudart.so.13"}


def test_bundle_holds_no_compiler(bundle: Path) -> None:
    assert not list(bundle.rglob("libtvm_compiler*"))
    assert list(bundle.rglob("libtvm_runtime_cuda.so"))


def test_parts_run_with_the_tvm_of_the_bundle_and_find_exact_results(
    bundle: Path, tmp_path: Path
) -> None:
    status, said = _run(bundle, tmp_path / "out", "--only", "exact:thresholds", "times", "network")
    assert status == 0, said
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    parts = result["parts"]
    (exact,) = parts["exact:thresholds"]["rows"].values()
    assert exact["exact"]
    assert exact["largest"] == 0
    assert exact["bound"] == 0
    assert exact["poisoned"] >= 3
    (times,) = parts["times"]["rows"].values()
    assert times["macs"] == 7 * 7 * 512 * 512 * 9
    assert times["seconds"] > 0
    assert {"bconv2d"} <= {row["kernel"].split("_")[0] for row in times["kernels"]}
    assert parts["network"]["status"] == "skipped"
    assert "holds no such models" in parts["network"]["why"]
    assert result["host"]["python"] == sys.version.split()[0]
    table = (tmp_path / "out" / "result.md").read_text()
    assert "| exact |" in table
    assert "3x3 512-512 7-batch1".replace(" ", "_") in table


def test_candidates_are_timed_there_and_become_records_here(bundle: Path, tmp_path: Path) -> None:
    status, said = _run(bundle, tmp_path / "out", "--only", "tune")
    assert status == 0, said
    result = tmp_path / "out" / "result.json"
    (row,) = json.loads(result.read_text())["parts"]["tune"]["rows"].values()
    assert row["exact"]
    assert row["compared"] == "with a CPU"
    assert [trial["failure"] for trial in row["trials"]] == [""] * len(row["trials"])
    assert len(row["trials"]) > 3
    assert "## Tiles" in (tmp_path / "out" / "result.md").read_text()

    assert to_records([str(result), "-o", str(tmp_path)]) == 0
    here = resolve("llvm")
    (record,) = Records(file_for(tmp_path, here)).all_best(here)
    assert record.key == _task().key
    assert record.trials == len(row["trials"])
    assert record.rule_us >= record.us > 0


def test_a_candidate_that_computes_something_else_gives_no_record(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = _manifest(copy)
    for row in manifest["models"]:
        if row["kind"] == "tune":
            row["expected"] = "other"
    _change(copy, models=manifest["models"])
    status, said = _run(copy, tmp_path / "out", "--only", "tune")
    assert status == 1, said
    assert "| WRONG |" in said
    assert to_records([str(tmp_path / "out" / "result.json"), "-o", str(tmp_path)]) == 0
    assert "wrong outputs" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_result_without_tuned_shapes_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "result.json"
    said = {"status": "failed", "why": "it took longer than 360 s"}
    for text, why in (
        ("{", "is no result of a bundle"),
        ("[]", "is no JSON object"),
        ('{"parts": {}}', "has no part tune; run"),
        (json.dumps({"parts": {"tune": said}}), "has no part tune (it took longer than 360 s)"),
    ):
        result.write_text(text)
        assert to_records([str(result), "-o", str(tmp_path)]) == 1
        assert why in capsys.readouterr().err


def test_the_runtime_alone_is_imported(bundle: Path) -> None:
    code = "import tvm, xnortvm._tvm_runtime as r; print(tvm.__file__, r.RUNTIME_ONLY)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(bundle / "site"), "TVM_USE_RUNTIME_LIB": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    file, alone = done.stdout.split()
    assert Path(file).is_relative_to(bundle / "site")
    assert alone == "True"


def test_without_a_driver_there_is_one_sentence_and_a_status(copy: Path, tmp_path: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    _change(copy, arches=["sm_90a"])
    status, said = _run(copy, tmp_path / "out")
    assert status == 2
    assert said.count("\n") == 1
    assert said.startswith("the GPU cannot be used: there is no NVIDIA driver")
    assert not (tmp_path / "out").exists()


def test_parts_that_need_a_gpu_say_why_they_failed(bundle: Path, tmp_path: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    status, _ = _run(bundle, tmp_path / "out", "--only", "ceilings:mma", "torch:layers")
    parts = json.loads((tmp_path / "out" / "result.json").read_text())["parts"]
    if "ceilings.fatbin" in _manifest(bundle)["left_out"]:
        assert parts["ceilings:mma"]["status"] == "skipped"
        assert status == 0
    else:
        assert parts["ceilings:mma"]["status"] == "failed"
        assert "no NVIDIA driver" in parts["ceilings:mma"]["why"]
        assert status == 1
    assert parts["torch:layers"]["status"] == "skipped"
    assert "PyTorch" in parts["torch:layers"]["why"]


def test_a_wrong_result_is_seen(copy: Path, tmp_path: Path) -> None:
    (file,) = copy.glob("models/thresholds*.npz")
    with np.load(file) as data:
        arrays = dict(data)
    arrays["output00"].flat[5] += 2
    np.savez_compressed(file, allow_pickle=False, **arrays)
    sums = _manifest(copy)["sha256"]
    sums[file.relative_to(copy).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
    _change(copy, sha256=sums)
    status, said = _run(copy, tmp_path / "out", "--only", "exact:thresholds")
    assert status == 1
    assert "WRONG by" in said


def test_a_damaged_bundle_is_refused(copy: Path, tmp_path: Path) -> None:
    with (copy / "parts" / "times.py").open("a") as file:
        file.write("\n")
    status, said = _run(copy, tmp_path / "out")
    assert status == 3
    assert "parts/times.py is not what was packed" in said


def test_an_archive_that_was_cut_off_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / ".unpacked").unlink()
    data = (copy / "packed.tar.xz").read_bytes()
    (copy / "packed.tar.xz").write_bytes(data[: len(data) // 2])
    status, said = _run(copy, tmp_path / "out")
    assert status == 3
    assert "packed.tar.xz cannot be unpacked" in said
    assert said.count("\n") == 1


def test_a_part_that_dies_says_how(tmp_path: Path) -> None:
    missing = tmp_path / "result.json"
    assert "ended by SIGSEGV; some words" in read_result(missing, -11, "x\nsome words\n\n")["why"]
    assert "status 7; it said nothing" in read_result(missing, 7, "")["why"]
    missing.write_text("{ half")
    assert read_result(missing, 1, "")["status"] == "failed"


def test_a_part_that_hangs_is_ended() -> None:
    found = run_part(Part("chip", seconds=0), (), Path())
    assert found == {"status": "failed", "why": "it took longer than 0 s"}


def test_a_part_that_raises_writes_why(tmp_path: Path) -> None:
    def fail() -> dict[str, Any]:
        raise ValueError("the first line\nthe last line")

    def skip() -> dict[str, Any]:
        raise SkipPart("there is nothing to do")

    file = tmp_path / "result.json"
    assert write(file, fail) == 1
    data = json.loads(file.read_text())
    assert (data["status"], data["why"]) == ("failed", "ValueError: the last line")
    assert data["traceback"]
    assert write(file, skip) == 0
    assert json.loads(file.read_text()) == {"status": "skipped", "why": "there is nothing to do"}


def test_every_family_has_a_process_of_its_own() -> None:
    models = [{"kind": "exact", "family": name} for name in ("a", "b", "a")]
    parts = parts_of({"models": models})
    assert [name for name in parts if name.startswith("exact")] == ["exact:a", "exact:b"]
    assert len({(part.module, part.argument) for part in parts.values()}) == len(parts)


def test_a_bundle_that_gets_too_large_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xnortvm.tools.gpu_bundle.build.LIMIT", 1 << 20)
    with pytest.raises(OutputError, match="may have 1; build it with fewer"):
        build(tmp_path / "b", [], targets=["llvm"], pythons=(), ceilings=("75",))
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_files_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious").write_text("")
    assert main(["--out", str(tmp_path), "--target", "llvm"]) == 1
    assert "holds other files" in capsys.readouterr().err

# SPDX-License-Identifier: Apache-2.0
"""Saving and loading: equal results, equal files, no half-written file, clear refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xnortvm.errors import ModelError, OutputError, TargetError, VersionError
from xnortvm.runtime import bundle
from xnortvm.runtime.load import load

ROOT = Path(__file__).parents[2]
X = np.random.default_rng(0).standard_normal((2, 3, 8)).astype("float32")


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory) -> Path:
    return model.save(tmp_path_factory.mktemp("saved") / "model.xnor")


def _changed(saved: Path, path: Path, **members: Any) -> Path:
    """Copy a bundle; members are replaced by bytes, removed by None or edited by a function."""
    with zipfile.ZipFile(saved) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    for name, change in members.items():
        name = name.replace("_", ".")
        if change is None:
            del contents[name]
        elif callable(change):
            data = json.loads(contents[name])
            change(data)
            contents[name] = json.dumps(data).encode()
        else:
            contents[name] = change
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def test_a_loaded_model_computes_the_same(model, saved):
    loaded = load(saved)
    np.testing.assert_array_equal(loaded(X), model(X))
    assert loaded.inputs == model.inputs
    assert loaded.outputs == model.outputs
    assert str(loaded.report) == str(model.report)
    assert loaded.library == model.library


def test_a_fresh_process_can_load_and_call(saved, model, tmp_path):
    np.save(tmp_path / "x.npy", X)
    code = (
        "import sys, numpy as np\n"
        "from xnortvm.runtime.load import load\n"
        "np.save(sys.argv[3], load(sys.argv[1])(np.load(sys.argv[2])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, saved, tmp_path / "x.npy", tmp_path / "y.npy"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model(X))


def test_equal_models_give_equal_files(model, saved, tmp_path):
    again = model.save(tmp_path / "again.xnor")
    assert again.read_bytes() == saved.read_bytes()
    loaded = load(saved).save(tmp_path / "loaded.xnor")
    assert loaded.read_bytes() == saved.read_bytes()


def test_saving_replaces_an_existing_file_and_leaves_nothing_else(model, tmp_path):
    path = tmp_path / "model.xnor"
    path.write_text("old")
    model.save(str(path))
    assert load(path).inputs == model.inputs
    assert os.listdir(tmp_path) == ["model.xnor"]


def test_an_unwritable_path_is_one_sentence_and_leaves_nothing(model, tmp_path):
    with pytest.raises(OutputError, match=r"nowhere/m.xnor cannot be written: No such file"):
        model.save(tmp_path / "nowhere" / "m.xnor")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=r"folder cannot be written"):
        model.save(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_full_disk_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = model.save(tmp_path / "model.xnor")
    before = path.read_bytes()

    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle.zipfile.ZipFile, "writestr", full)
    with pytest.raises(OutputError, match="No space left"):
        model.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.xnor"]


def test_a_missing_file_is_named():
    with pytest.raises(ModelError, match=r"there is no file .*nothing\.xnor"):
        load("nothing.xnor")


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ModelError, match="holds no manifest"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 nonsense"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "other.xnor"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is not a compiled model"):
        load(path)


def test_any_zip_file_is_not_a_model(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ModelError, match=r"holds no manifest\.json"):
        load(tmp_path / "a.zip")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved, tmp_path, share):
    data = saved.read_bytes()
    (tmp_path / "cut.xnor").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError):
        load(tmp_path / "cut.xnor")


@pytest.mark.parametrize("place", range(0, 100, 7))
def test_a_flipped_byte_is_never_executed(saved, tmp_path, place):
    data = bytearray(saved.read_bytes())
    data[len(data) * place // 100] ^= 0xFF
    path = tmp_path / "flipped.xnor"
    path.write_bytes(data)
    try:
        loaded = load(path)  # a byte of the archive's dates or names may be harmless
    except (ModelError, VersionError):
        return
    assert loaded.library == load(saved).library


def test_a_changed_library_is_refused(saved, tmp_path):
    path = _changed(saved, tmp_path / "m.xnor", library_so=b"\x7fELF")
    with pytest.raises(ModelError, match=r"checksum of library\.so does not match"):
        load(path)


def test_a_missing_member_is_refused(saved, tmp_path):
    path = _changed(saved, tmp_path / "m.xnor", report_json=None)
    with pytest.raises(ModelError, match=r"report\.json is missing"):
        load(path)


def test_a_manifest_without_interface_is_refused(saved, tmp_path):
    path = _changed(saved, tmp_path / "m.xnor", manifest_json=lambda m: m.pop("interface"))
    with pytest.raises(ModelError, match="is damaged"):
        load(path)


def test_another_file_format_is_refused(saved, tmp_path):
    path = _changed(saved, tmp_path / "m.xnor", manifest_json=lambda m: m.update(format=99))
    with pytest.raises(VersionError, match="file format 99"):
        load(path)


def test_another_tvm_is_refused(saved, tmp_path):
    def older(manifest: dict[str, Any]) -> None:
        manifest["versions"]["apache-tvm"] = "0.26.0"

    path = _changed(saved, tmp_path / "m.xnor", manifest_json=older)
    with pytest.raises(VersionError, match=r"compiled with TVM 0\.26\.0 and this is TVM 0\.27"):
        load(path)


def test_missing_cpu_features_are_refused_before_the_code_is_loaded(saved, tmp_path):
    def needs_more(manifest: dict[str, Any]) -> None:
        manifest["machine"]["features"].append("avx1024")

    path = _changed(saved, tmp_path / "m.xnor", manifest_json=needs_more)
    with pytest.raises(TargetError, match="needs the CPU features avx1024 that this machine lacks"):
        load(path)


def test_another_architecture_is_refused(saved, tmp_path):
    def other(manifest: dict[str, Any]) -> None:
        manifest["machine"]["triple"] = "riscv64-unknown-linux-gnu"

    path = _changed(saved, tmp_path / "m.xnor", manifest_json=other)
    with pytest.raises(TargetError, match="riscv64-linux-gnu, and this machine is"):
        load(path)

# SPDX-License-Identifier: Apache-2.0
"""``compile`` and ``explain``: what they pass to the API and what they print."""

from __future__ import annotations

from pathlib import Path

import pytest

from xnortvm.tools import model_arg

pytest.importorskip("torch")


def test_compile_saves_the_model_and_prints_its_report(cli, fake, tmp_path: Path):
    out = tmp_path / "net.xnor"
    ran = cli("compile", "lenet", "-o", out)
    assert ran.status == 0
    assert out.read_text() == "saved"
    assert "conv1  binary" in ran.out
    assert str(out) in ran.out
    assert "compiling lenet for llvm -mtriple=" in ran.err


def test_compile_passes_its_options_on(cli, fake, tmp_path: Path):
    dump = tmp_path / "dump"
    cli(
        *("compile", "lenet", "-o", tmp_path / "x", "--target", "rpi4", "--num-threads", 4),
        *("--sign-zero=+1", "--no-verify", "--dump-dir", dump, "--batch", 3, "--input-size", 32),
        *("--stem", "winograd", "--trunk", "fp16"),
    )
    ((name, model, options),) = fake
    assert name == "compile"
    (image,) = options.pop("example_inputs")
    assert tuple(image.shape[::2]) == (3, 32)
    assert model.training is False
    assert options == {
        "target": "rpi4",
        "num_threads": 4,
        "sign_zero": "+1",
        "stem": "winograd",
        "trunk": "fp16",
        "verify": False,
        "records": None,
        "dump_dir": str(dump),
    }


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2", "NET.ONNX"])
def test_files_are_passed_as_paths(cli, fake, tmp_path: Path, name: str):
    path = tmp_path / name
    cli("compile", path, "-o", tmp_path / "x")
    ((_, model, options),) = fake
    assert model == path
    assert options["example_inputs"] is None


def test_json_is_the_only_thing_on_standard_output(cli, fake, tmp_path: Path):
    data = cli("compile", "lenet", "-o", tmp_path / "x", "--target", "rpi4", "--json").data
    assert data["target"]["preset"] == "rpi4"
    assert data["report"]["layers"][0]["binary"] is True
    assert data["seconds"] >= 0


def test_an_unwritable_output_is_found_before_compiling(cli, fake, tmp_path: Path):
    cli("compile", "lenet", "-o", tmp_path / "no" / "x.xnor")
    assert fake == []


def test_a_failed_write_is_status_1(cli, fake, tmp_path: Path):
    ran = cli("compile", "lenet", "-o", tmp_path / "full.xnor", "--quiet")
    assert ran.status == 1
    assert "no space left" in ran.err


def test_quiet_says_nothing_on_the_way(cli, fake, tmp_path: Path):
    assert cli("compile", "lenet", "-o", tmp_path / "x", "-q").err == ""


def test_a_compiled_model_is_not_compiled_again(cli, fake, tmp_path: Path):
    saved = tmp_path / "net.xnor"
    saved.write_text("")
    ran = cli("compile", saved, "-o", tmp_path / "x")
    assert ran.status == 1
    assert "compiled already" in ran.err
    assert fake == []


def test_explain_prints_the_report_without_compiling(cli, fake):
    ran = cli("explain", "lenet", "--target", "h100")
    assert ran.out == "layer  conv1  binary\n"
    ((name, _, options),) = fake
    assert name == "explain"
    assert options["target"] == "h100"
    assert cli("explain", "lenet", "--json").data["layers"]


def test_explain_reads_the_report_of_a_compiled_model(cli, fake, tmp_path: Path):
    saved = tmp_path / "net.xnor"
    saved.write_text("")
    assert cli("explain", saved).status == 0
    assert [call[0] for call in fake] == ["load"]


def test_a_network_wins_over_a_folder_of_the_same_name(cli, fake, tmp_path: Path, monkeypatch):
    (tmp_path / "lenet").mkdir()
    monkeypatch.chdir(tmp_path)
    cli("explain", "lenet")
    assert [call[0] for call in fake] == ["explain"]


def test_without_torch_networks_say_what_to_install(cli, fake, monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(model_arg.importlib, "import_module", missing)
    ran = cli("explain", "lenet")
    assert ran.status == 1
    assert 'pip install "xnortvm[torch]"' in ran.err
    assert cli("explain", "net.onnx").status == 0


@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_gets_an_example_of_the_model(cli, fake, tmp_path: Path, existing: bool):
    out = tmp_path / "out"
    if existing:
        out.mkdir()
    ran = cli("compile", "lenet", "-o", str(out) if existing else f"{out}/", "--target", "rpi4")
    assert ran.status == 0, ran.err
    assert (out / "saved").read_text() == "bound 1e-05"
    assert [options["target"] for _, _, options in fake] == ["rpi4", "llvm"]
    assert "compiling lenet for this machine, which computes the expected outputs" in ran.err


def test_a_folder_of_other_files_is_refused_before_compiling(cli, fake, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("")
    ran = cli("compile", "lenet", "-o", tmp_path)
    assert ran.status == 1
    assert "holds other files; name a new or an empty one" in ran.err
    assert fake == []


def test_freestanding_writes_a_folder_and_prints_what_lies_where(cli, fake, tmp_path: Path):
    out = tmp_path / "out"
    ran = cli("compile", "lenet", "-o", out, "--freestanding", "--prefix", "net")
    assert (out / "net.o").read_text() == "object"
    assert ran.out.endswith("bytes: code 1,234, weights 5, workspace 6\n")
    data = cli("compile", "lenet", "-o", tmp_path / "b", "--freestanding", "--json").data
    assert data["bytes"] == {"code": 1234, "weights": 5, "workspace": 6}
    assert (tmp_path / "b" / "model.o").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--freestanding", "--prefix", "a-b"), "the prefix 'a-b' cannot begin"),
        (("--freestanding", "--target", "h100"), "holds code for a CPU"),
        (("--freestanding", "--target", "apple-m1"), "is an ELF file"),
        (("--prefix", "net"), "--prefix names what --freestanding writes"),
    ],
)
def test_what_has_no_freestanding_form_is_found_before_compiling(
    cli, fake, tmp_path: Path, options: tuple[str, ...], said: str
):
    ran = cli("compile", "lenet", "-o", tmp_path / "out", *options)
    assert ran.status == 1
    assert said in ran.err
    assert fake == []

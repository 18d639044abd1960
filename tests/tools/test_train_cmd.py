# SPDX-License-Identifier: Apache-2.0
"""``train`` and ``ablation``: from the command line to files that the compiler takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("safetensors")

from xnortvm.models import CHECKPOINTS, build, freeze_, load, save  # noqa: E402
from xnortvm.models.training import RECIPES, ablation  # noqa: E402

TINY = (
    "--option", "channels=[4, 8]", "--option", "hidden=16", "--epochs", "1", "--batch-size", "128",
)  # fmt: skip


def test_training_on_digits_is_one_command(cli: Any, tmp_path: Path) -> None:
    ran = cli("train", *TINY, "--scale", "channel-height-width", "-o", tmp_path / "run", "--json")
    assert ran.status == 0, ran.err
    assert "epoch 1/1: loss" in ran.err
    assert "left" in ran.err
    assert ran.data["binary_layers"] == ["conv.conv", "linear.linear"]
    assert ran.data["recipe"]["optimizer"] == "adam"
    model = load(ran.data["weights"])
    assert model.conv.conv.scale.name == "channel×height×width"
    note = json.loads((tmp_path / "run" / "model.json").read_text())
    assert note["trained"]["test_accuracy"] == ran.data["test_accuracy"]


def test_a_run_is_resumed_and_never_overwritten(cli: Any, tmp_path: Path) -> None:
    arguments = ("train", *TINY, "-o", tmp_path / "run")
    assert cli(*arguments).status == 0
    again = cli(*arguments)
    assert again.status == 1
    assert "holds a run already; go on with it by --resume" in again.err
    resumed = cli(*arguments, "--resume")
    assert resumed.status == 0
    assert "going on with" in resumed.err


def test_an_exported_network_is_what_the_compiler_takes(cli: Any, tmp_path: Path) -> None:
    ran = cli("train", *TINY, "-o", tmp_path / "run", "--export", "--json", "--quiet")
    assert ran.status == 0, ran.err
    program = torch.export.load(ran.data["exported"])
    model = freeze_(load(ran.data["weights"]))
    x = torch.randn(1, 1, 8, 8)
    assert torch.allclose(program.module()(x), model(x), atol=1e-6)


def test_generated_shapes_of_another_size_can_be_trained_on(cli: Any, tmp_path: Path) -> None:
    ran = cli("train", "--data", "shapes", "--input-size", 8, *TINY, "-o", tmp_path / "run", "-q")
    assert ran.status == 0, ran.err
    assert "of 2000 test images are classified wrongly" in ran.out


def test_training_starts_from_weights_that_fit(cli: Any, tmp_path: Path) -> None:
    small = {"input_size": 8, "channels": (4, 8), "hidden": 16}
    path = save(build("lenet", **small), tmp_path / "start")
    ran = cli("train", *TINY, "--init", path, "-o", tmp_path / "run")
    assert ran.status == 0, ran.err
    wide = cli("train", "--init", path, "-o", tmp_path / "wide")
    assert wide.status == 1
    assert "does not fit the network" in wide.err
    frozen = save(freeze_(build("lenet", **small)), tmp_path / "frozen")
    refused = cli("train", *TINY, "--init", frozen, "-o", tmp_path / "frozen-run")
    assert "holds signs instead of latent weights" in refused.err
    small["input_size"] = 16
    other = save(build("lenet", **small), tmp_path / "other")
    spatial = cli("train", *TINY, "--init", other, "-o", tmp_path / "other-run")
    assert "layer 'conv.conv'" in spatial.err
    assert "8×8" in spatial.err
    assert "4×4" in spatial.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "digts"], "did you mean 'digits'"),
        (["--data", "cifar10"], "name their folder"),
        (["--data", "cifar10", "--data-dir", "/nowhere"], "/nowhere does not exist"),
        (["--data", "imagenet", "--data-dir", "/nowhere"], "/nowhere does not exist"),
        (["--num-classes", "7"], "digits has 10 classes and the network 7"),
        (["--model", "resnet18-cifar", "--option", "width=4"], "built for 3×8×8"),
        (["--model", "vgg"], "unknown model 'vgg'"),
        (["--scale", "chanel"], "unknown scale"),
        (["--option", "width"], "not KEY=VALUE"),
        (["--option", "colour=3"], "cannot be built"),
        (["--recipe", "papper"], "did you mean 'paper'"),
        (["--init", "/nowhere/net"], "/nowhere/net.safetensors does not exist"),
        (["--resume"], "nothing to resume"),
        (["--num-threads", "0"], "give at least 1"),
        (["--lr", "-1"], "take more than 0"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    cli: Any, tmp_path: Path, arguments: list[str], message: str
) -> None:
    ran = cli("train", "--quiet", "-o", tmp_path / "run", *arguments)
    assert ran.status == 1
    assert message in ran.err
    assert "Traceback" not in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_output_folder_that_cannot_be_made_is_said(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = cli("train", *TINY, "-o", tmp_path / "file" / "run")
    assert ran.status == 1
    assert "cannot be made: Not a directory" in ran.err


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port",
        str(20000 + os.getpid() % 20000), "-m", "xnortvm.tools.train", *TINY,
        "--save-steps", "3", "--device", "cpu", "-o", str(tmp_path / "run"),
    ]  # fmt: skip
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Saved to") == 1
    assert done.stderr.count("epoch 1/1") == 1
    log = json.loads((tmp_path / "run" / "log.json").read_text())
    assert log["processes"] == 2
    assert log["epochs"][0]["train_accuracy"] > 0.05
    model = load(tmp_path / "run" / "model")
    assert model(torch.zeros(1, 1, 8, 8)).isfinite().all()


def test_the_shipped_checkpoint_was_trained_by_the_short_recipe_to_97_percent() -> None:
    note = json.loads((CHECKPOINTS / "digits.json").read_text())
    assert note["trained"]["recipe"] == RECIPES["short"].to_json()
    assert note["trained"]["test_accuracy"] >= 0.97


# ---- ablation


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the networks of the ablation small."""
    small = ablation.Setting(
        ablation.SETTINGS["digits"].load, {"channels": (4, 8), "hidden": 16}, {"epochs": 1}
    )
    monkeypatch.setitem(ablation.SETTINGS, "digits", small)


def test_an_ablation_makes_a_table_and_a_plot(cli: Any, tmp_path: Path, quick: None) -> None:
    arguments = (
        "ablation", "--data", "digits", "--variants", "real,analytic,case 1,case 4",
        "-o", tmp_path,
    )  # fmt: skip
    ran = cli(*arguments, "--seeds", 2, "--json")
    assert ran.status == 0, ran.err
    about = json.loads((tmp_path / "ablation.json").read_text())["digits"]["about"]
    assert about["recipe"]["epochs"] == 1
    rows = {row["variant"]: row for row in ran.data["digits"]}
    assert list(rows) == ["real", "analytic", "case 1", "case 4"]
    assert rows["real"]["cost"]["binary_macs"] == 0
    assert rows["case 1"]["cost"]["scale_numbers"] == 8 + 16
    assert rows["case 4"]["cost"]["scale_numbers"] == 8 + 4 + 4 + 16
    assert rows["analytic"]["gain"] is None
    text = (tmp_path / "ablation.md").read_text()
    assert "| case 4 | 2 | " in text
    assert "![test accuracy of each variant](ablation.svg)" in text
    assert "<svg" in (tmp_path / "ablation.svg").read_text()

    again = cli(*arguments, "--seeds", 2)
    assert "seed" not in again.err, "runs in the folder must not be repeated"
    assert "| case 4 | 2 | " in again.out
    more = cli(*arguments, "--seeds", 3)
    assert more.err.count("seed 2,") == 4
    other = cli(*arguments, "--lr", 1)
    assert other.status == 1
    assert "another recipe or network" in other.err


def test_an_ablation_refuses_unknown_names(cli: Any, tmp_path: Path) -> None:
    assert "no data set 'digit'" in cli("ablation", "--data", "digit", "-o", tmp_path).err
    assert "no variant 'case 5'" in cli("ablation", "--variants", "case 5", "-o", tmp_path).err
    assert "--seeds has to be at least 1" in cli("ablation", "--seeds", 0).err
    (tmp_path / "ablation.json").write_text("{")
    assert "cannot be read" in cli("ablation", "-o", tmp_path).err

# SPDX-License-Identifier: Apache-2.0
"""Promises of the training loop: it learns, it can be interrupted, and it says what is wrong."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xnortvm.errors import DataError, OutputError, TrainingError
from xnortvm.models import build, init_scales_, load, save
from xnortvm.models.training import (
    DataSet,
    MemorySplit,
    Options,
    evaluate,
    join,
    load_data,
    make_recipe,
    train,
)
from xnortvm.models.training.progress import duration
from xnortvm.models.training.state import load_state


def tiny_data() -> DataSet:
    """96 training digits, so that a run takes no time."""
    data = load_data("digits")
    whole, test = data.train, data.test
    assert isinstance(whole, MemorySplit)
    assert isinstance(test, MemorySplit)
    return DataSet(
        "digits",
        MemorySplit(
            whole.images[:96], whole.labels[:96], data.mean, data.std, whole.augment, full=16
        ),
        MemorySplit(test.images[:40], test.labels[:40], data.mean, data.std, full=16),
        data.image_shape,
        data.classes,
        data.mean,
        data.std,
    )


def tiny_model(seed: int = 0, **options: Any) -> nn.Module:
    model = build(
        "lenet", input_size=8, channels=(4, 8), hidden=16, seed=seed, randomize=False, **options
    )
    return init_scales_(model, "analytic")


RECIPE = make_recipe("short", epochs=3, batch_size=16)


def run(
    output: Path | None = None, *, seed: int = 0, **options: Any
) -> tuple[nn.Module, list[Any]]:
    model = tiny_model(seed)
    rows = train(
        model, tiny_data(), RECIPE, seed=seed, options=Options(output, quiet=True, **options)
    )
    return model, rows


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def without_time(rows: list[Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.to_json().items() if k != "seconds"} for row in rows]


# ---- learning


def test_a_run_learns_and_writes_everything_that_was_promised(tmp_path: Path) -> None:
    model, rows = run(tmp_path)
    assert rows[-1].loss < rows[0].loss
    assert not model.training
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "state.pt", "model.safetensors", "model.json", "log.csv", "log.json", "curve.png",
    }  # fmt: skip
    assert same(load(tmp_path / "model"), model)
    with open(tmp_path / "log.csv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["epoch"]) for line in lines] == [1, 2, 3]
    assert float(lines[-1]["loss"]) == pytest.approx(rows[-1].loss, rel=1e-4)
    log = json.loads((tmp_path / "log.json").read_text())
    assert log["recipe"]["epochs"] == 3
    assert [row["epoch"] for row in log["epochs"]] == [1, 2, 3]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    one, rows = run()
    other, others = run()
    assert same(one, other)
    assert without_time(rows) == without_time(others)
    assert not same(one, run(seed=1)[0])


def test_the_logged_accuracy_is_that_of_the_saved_weights(tmp_path: Path) -> None:
    _, rows = run(tmp_path)
    assert evaluate(load(tmp_path / "model"), tiny_data()) == rows[-1].test_accuracy


def test_bfloat16_trains_with_float32_parameters(tmp_path: Path) -> None:
    model, rows = run(precision="bfloat16")
    assert rows[-1].loss < rows[0].loss
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with pytest.raises(TrainingError, match="float16 training needs a GPU"):
        run(precision="float16")
    with pytest.raises(TrainingError, match=r"'bfloat' is no precision \(did you mean 'bfloat16'"):
        run(precision="bfloat")


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_every_optimizer_goes_with_every_schedule(optimizer: str, schedule: str) -> None:
    recipe = make_recipe(
        "short", epochs=2, batch_size=32, optimizer=optimizer, schedule=schedule, weight_decay=1e-4
    )
    rows = train(tiny_model(), tiny_data(), recipe, options=Options(quiet=True))
    assert len(rows) == 2


# ---- recipes


def test_the_paper_recipe_is_the_documented_one() -> None:
    recipe = make_recipe("paper")
    assert (recipe.epochs, recipe.batch_size, recipe.optimizer) == (80, 256, "adam")
    assert recipe.weight_decay == 1e-5
    rates = [recipe.learning_rate(epoch) for epoch in (0, 24.9, 25, 50, 79)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5, 1e-6])
    assert make_recipe("paper-alexnet").batch_size == 400


def test_a_warm_up_grows_and_a_cosine_ends_at_zero() -> None:
    recipe = make_recipe("short", epochs=10, lr=1.0)
    assert recipe.learning_rate(0) == 0
    assert recipe.learning_rate(0.5) == pytest.approx(0.5, abs=0.01)
    assert recipe.learning_rate(10) == pytest.approx(0)


def test_wrong_recipes_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"no recipe 'papre' \(did you mean 'paper'"):
        make_recipe("papre")
    with pytest.raises(TrainingError, match="unknown optimizer 'adan'"):
        make_recipe("short", optimizer="adan")
    with pytest.raises(TrainingError, match="epochs=0; take more than 0"):
        make_recipe("short", epochs=0)
    with pytest.raises(TrainingError, match="no field 'epoch'"):
        make_recipe("short", epoch=1)
    with pytest.raises(TrainingError, match="weight_decay=-1"):
        make_recipe("short", weight_decay=-1)


def test_durations_are_written_for_people() -> None:
    assert [duration(s) for s in (0.4, 59.4, 61, 3660)] == ["0 s", "59 s", "1 min 1 s", "1 h 1 min"]


# ---- interruption


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads({threads})
import test_training_loop as t
from xnortvm.models.training import loop

step = loop.Run._step
calls = 0

def killing(self, *args):
    global calls
    calls += 1
    if calls == {last}:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args)

loop.Run._step = killing
t.run(Path({output!r}), save_steps=4)
"""


@pytest.mark.parametrize("last", [9, 12])
def test_a_killed_run_goes_on_bit_identically(last: int, tmp_path: Path) -> None:
    """SIGKILL in the middle of an epoch, after state of the epoch before or of this one."""
    script = KILLED.format(
        tests=str(Path(__file__).parent),
        threads=torch.get_num_threads(),
        output=str(tmp_path / "killed"),
        last=last,
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    state = load_state(tmp_path / "killed")
    assert (state["epoch"], state["step"]) == ((1, 0) if last == 9 else (1, 4))
    model, rows = run(tmp_path / "killed", resume=True, save_steps=4)
    whole, expected = run(tmp_path / "whole")
    assert same(model, whole)
    assert without_time(rows) == without_time(expected)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]
    states = [load_state(tmp_path / name) for name in ("killed", "whole")]
    assert torch.equal(states[0]["random"], states[1]["random"])
    for key, one in states[0]["optimizer"]["state"].items():
        other = states[1]["optimizer"]["state"][key]
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_dropout_goes_on_with_its_random_state(tmp_path: Path) -> None:
    class Dropping(nn.Sequential):
        stop = 0

        def forward(self, x: Tensor) -> Tensor:
            self.stop -= 1
            if self.stop == 0:
                raise KeyboardInterrupt
            return super().forward(x)

    def net() -> Dropping:
        torch.manual_seed(0)
        return Dropping(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))

    whole, stopped, resumed = net(), net(), net()
    data = tiny_data()
    train(whole, data, RECIPE, options=Options(quiet=True))
    stopped.stop = 12
    with pytest.raises(KeyboardInterrupt):
        train(stopped, data, RECIPE, options=Options(tmp_path, quiet=True, save_steps=2))
    train(resumed, data, RECIPE, options=Options(tmp_path, quiet=True, resume=True))
    assert same(whole, resumed)


def test_a_finished_run_can_be_resumed_and_does_nothing(tmp_path: Path) -> None:
    model, rows = run(tmp_path)
    before = (tmp_path / "state.pt").read_bytes()
    again, same_rows = run(tmp_path, resume=True)
    assert same(model, again)
    assert same_rows == rows
    assert (tmp_path / "state.pt").read_bytes() == before


def test_does_not_overwrite_a_run(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(TrainingError, match="holds a run already"):
        run(tmp_path)


def test_does_not_resume_what_is_not_there_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nothing to resume.*state\.pt does not exist"):
        run(tmp_path, resume=True)
    run(tmp_path)
    path = tmp_path / "state.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r"state\.pt is damaged"):
        run(tmp_path, resume=True)


def test_does_not_resume_by_other_settings(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(TrainingError, match=r"was started with seed=0 .* resumed with 1"):
        run(tmp_path, resume=True, seed=1)
    recipe = make_recipe("short", epochs=4, batch_size=16)
    with pytest.raises(TrainingError, match=r"recipe\.epochs=3"):
        train(tiny_model(), tiny_data(), recipe, options=Options(tmp_path, resume=True, quiet=True))


def test_a_full_disk_ends_the_run_and_leaves_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, calls = os.fsync, 0

    def fills_up(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 14:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fills_up)
    with pytest.raises(
        OutputError, match="No space left on device; its former content is unharmed"
    ):
        run(tmp_path)
    monkeypatch.undo()
    assert load_state(tmp_path)["epoch"] >= 1
    load(tmp_path / "model")
    model, _ = run(tmp_path, resume=True)
    assert same(model, run()[0])


# ---- what does not fit


def test_data_that_do_not_fit_the_network_are_refused() -> None:
    data = tiny_data()
    with pytest.raises(DataError, match="digits has 10 classes and the network 7"):
        train(tiny_model(num_classes=7), data, RECIPE)
    wide = build("resnet18-cifar", width=4, input_size=8)
    with pytest.raises(DataError, match=r"images of 1×8×8 .* built for 3×8×8"):
        train(wide, data, RECIPE)


def test_batches_that_cannot_be_filled_are_refused() -> None:
    with pytest.raises(TrainingError, match="batches of 256 images do not go with 96"):
        train(tiny_model(), tiny_data(), make_recipe("paper"))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    recipe = make_recipe("short", epochs=2, batch_size=16, optimizer="sgd", lr=1e30, warmup=0)
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) in epoch 1, step \d"):
        train(tiny_model(), tiny_data(), recipe, options=Options(tmp_path, quiet=True))


def test_devices_that_are_not_here_are_refused() -> None:
    with pytest.raises(TrainingError, match="'gpu5' is not a device"), join("gpu5"):
        pass
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match="PyTorch finds no GPU"), join("cuda"):
            pass


def test_training_goes_on_from_saved_weights(tmp_path: Path) -> None:
    model, rows = run()
    again = load(save(model, tmp_path / "net"))
    more = train(again, tiny_data(), RECIPE, options=Options(quiet=True))
    assert more[-1].loss < rows[-1].loss

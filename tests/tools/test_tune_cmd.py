# SPDX-License-Identifier: Apache-2.0
"""``xnortvm tune`` and ``xnortvm records``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tuning.networks import binary_task
from tests.tuning.test_records import KEY, record, written
from xnortvm.target import resolve
from xnortvm.tools.cli import main
from xnortvm.tools.layer_modules import Layer
from xnortvm.tools.machine import Machine
from xnortvm.tools.tune_progress import Limits, Progress
from xnortvm.tuning.records import Records
from xnortvm.tuning.search import Options, Search, State
from xnortvm.tuning.space import space_of

HOST = resolve("llvm")
#: Limits like those of one Zen 4 core.
MACHINE = Machine(
    cpu="test",
    date="2026-01-01",
    isa=HOST.isa,
    hertz=4e9,
    caches={"L1": 32 << 10, "L2": 1 << 20},
    macs={HOST.isa: {"word": 1.3e12, "fp32": 6e10}},
    dots={},
    read={"L1": 4e11, "L2": 1e11, "memory": 3e10},
)


@pytest.fixture(autouse=True)
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring the limits of this machine takes ten seconds and has tests of its own."""
    monkeypatch.setattr("xnortvm.tools.machine.limits_of_this_machine", lambda: MACHINE)


def test_tunes_a_network_by_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, plot = tmp_path / "r.jsonl", tmp_path / "plot.svg"
    command = ["tune", "lenet", "--trials", "2", "--strategy", "random", "--json"]
    assert main([*command, "--records", str(path), "--plot", str(plot)]) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert data["ended"] == "done"
    assert all(row["measured"] <= 2 for row in data["rows"])
    assert data["after_us"] <= data["before_us"]
    assert all(row["share"] > 0 for row in data["rows"])
    assert bool(data["network"]) != bool(data["network_note"])
    assert "\r" not in err  # no progress where nobody watches
    assert plot.read_text().startswith("<?xml")
    assert Records(path)


def test_progress_says_how_far_how_long_the_best_of_each_task_and_what_failed() -> None:
    show = Progress(Limits("llvm", 1))
    run = Search([], HOST, Records(), Options(trials=2))
    assert show.line(run).startswith("0 of 0 candidates, 0 failed, 0 s, about 0 s left")
    task = binary_task(Layer(3, 64, 14, 64, 1))
    space = space_of(task, HOST)
    fast = record(kind="trial", decisions=space.legal[0], us=50.0)
    bad = record(kind="trial", decisions=space.legal[1], us=None, failure="crash: SIGSEGV")
    state = State(task, space, Path(), {each.decisions: each for each in (fast, bad)}, new=2)
    run.states.append(state)
    line = show.line(run)
    assert line.startswith("2 of 2 candidates, 1 failed")
    assert "best 50.00 µs, rule 50.00, " in line
    assert line.endswith(" % of the limit")
    failed, done = show.news(run)
    assert failed == f"{task.key} failed: crash: SIGSEGV"
    assert done.startswith(f"{task.key}: 2 of {len(space.legal)}, best 50.00 µs")
    assert show.news(run) == []  # each once


def test_a_plot_that_cannot_be_written_is_refused_first(capsys: pytest.CaptureFixture) -> None:
    assert main(["tune", "lenet", "--plot", "/nowhere/plot.svg"]) == 1
    assert "its folder does not exist" in capsys.readouterr().err


def test_lists_and_chooses(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "r.jsonl"
    written(path, record(), record(kind="trial"), record(us=7.0))
    assert main(["records", "list", str(path)]) == 0
    assert "3 records, 0 damaged lines" in capsys.readouterr().out
    assert main(["records", "best", str(path), "--json"]) == 0
    (best,) = json.loads(capsys.readouterr().out)
    assert best["best us"] == 7.0


def test_merges_prunes_and_exports(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    one, two, out = (tmp_path / f"{name}.jsonl" for name in ("one", "two", "out"))
    written(two, record(), record(kind="trial"), record(key=replace(KEY, op="bdense")))
    assert main(["records", "merge", str(one), str(two)]) == 0
    assert len(Records(one)) == 3
    assert main(["records", "prune", str(one)]) == 0
    assert len(Records(one)) == 2
    assert main(["records", "export", str(two), "-o", str(out)]) == 0
    assert list(Records(out)) == list(Records(one))
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["best", "missing.jsonl"], "there is no such file"),
        (["merge", "a.jsonl"], "needs 2 files"),
        (["prune"], "needs 1 file"),
        (["export"], "-o OUT"),
    ],
)
def test_wrong_arguments_are_said(arguments, said: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["records", *arguments]) == 1
    assert said in capsys.readouterr().err


def test_this_machine_is_not_measured_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    from xnortvm.tools import machine

    monkeypatch.setattr(machine, "limits_of_this_machine", lambda: pytest.fail("measured"))
    assert Limits("rpi4", None).of("binary", 1000, 10) is None

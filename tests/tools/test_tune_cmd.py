# SPDX-License-Identifier: Apache-2.0
"""``xnortvm tune`` and ``xnortvm records``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tuning.test_records import HERE, KEY, record, written
from xnortvm.tools import tune_cmd
from xnortvm.tools.cli import main
from xnortvm.tuning.records import Records
from xnortvm.tuning.search import Options, Search


def test_tunes_a_network_by_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, plot = tmp_path / "r.jsonl", tmp_path / "plot.svg"
    command = ["tune", "lenet", "--trials", "2", "--strategy", "random", "--json"]
    assert main([*command, "--records", str(path), "--plot", str(plot)]) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert data["ended"] == "done"
    assert all(row["measured"] <= 2 for row in data["rows"])
    assert data["after_us"] <= data["before_us"]
    assert "\r" not in err  # no progress where nobody watches
    assert plot.read_text().startswith("<?xml")
    assert Records(path)


def test_the_line_of_progress_says_how_far_and_how_long() -> None:
    run = Search([], HERE, Records(), Options())
    assert tune_cmd.Progress().line(run).startswith("0 of 0 candidates, 0 failed")


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

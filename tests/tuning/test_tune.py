# SPDX-License-Identifier: Apache-2.0
"""Tuning as a whole: what it records, how it goes on, and what may go wrong on the way."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import xnortvm
from tests.tuning.networks import binary_task, network
from xnortvm.api import lower
from xnortvm.errors import ModelError, OutputError, TargetError
from xnortvm.target import resolve
from xnortvm.tools.layer_modules import Layer
from xnortvm.tuning.network import NotTimedError, time_network
from xnortvm.tuning.pool import Worker
from xnortvm.tuning.records import Record, Records
from xnortvm.tuning.runner import Race
from xnortvm.tuning.search import Options, Search

LAYER = Layer(3, 32, 8, 32, 1)


def search(path: Path, **options) -> Search:
    target = resolve("llvm")
    given = {"trials": 6, "builders": 1} | options
    return Search([binary_task(LAYER)], target, Records(path), Options(**given))


def test_a_model_is_tuned_once_and_compiled_with_its_records(tmp_path: Path) -> None:
    model, x = network()
    path = tmp_path / "r.jsonl"
    records = xnortvm.tune(model, example_inputs=x, trials=4, records=path, strategy="random")
    rows = records.summary.rows
    assert [row.new for row in rows] == [4, 4, 4]
    assert sum(each.kind == "best" for each in records) == 3
    assert all(row.best_us <= row.rule_us for row in rows)
    assert all(row.curve == sorted(row.curve, reverse=True) for row in rows)
    again = xnortvm.tune(model, example_inputs=x, trials=4, records=path, strategy="random")
    assert [row.new for row in again.summary.rows] == [0, 0, 0]
    assert len(Records(path)) == len(records)
    assert "3 tasks, 0 new measurements" in str(again.summary)
    assert "not timed: this run measured nothing new" in str(again.summary)

    # Whatever won: a record with a gain is applied, said, and changes no result.
    slow = next(each for each in records if each.key.op == "bconv2d" and each.kind == "trial")
    other = next(
        each
        for each in records
        if each.key == slow.key and each.kind == "trial" and each.decisions != slow.decisions
    )
    records.append(replace(other, kind="best", us=1.0, rule_us=1000.0))
    tuned = xnortvm.compile(model, example_inputs=x, records=path)
    plain = xnortvm.compile(model, example_inputs=x, records=False)
    assert "tuned" in {row.decided_by for row in tuned.report.layers}
    assert {row.decided_by for row in plain.report.layers} == {"rule"}
    assert "bconv2d." in str(tuned.report)
    assert tuned.report.verification is not None
    assert torch.equal(tuned(x), plain(x))


def test_candidates_that_crash_hang_or_compute_something_else_cost_only_themselves(
    tmp_path: Path,
) -> None:
    path = tmp_path / "r.jsonl"
    run = search(path, trials=40, timeout=3.0, worker="tests.tuning.bad_worker")
    (state,) = _opened(run, tmp_path)
    _keep_one_of_each_kind(state.space.legal)
    _run_opened(run, state)
    failures = {each.decisions: each.failure for each in Records(path) if each.failure}
    kinds = {failure.partition(":")[0] for failure in failures.values()}
    assert kinds == {"crash", "timeout", "wrong"}
    assert "SIGSEGV" in "".join(failures.values())
    best = Records(path).best(state.task.key, run.target)
    assert best is not None
    assert best.decisions not in failures
    assert run.summary.rows[0].failures["timeout"] == 1
    assert "failed (crash: the process ended with SIGSEGV)" in str(run.summary)


def _keep_one_of_each_kind(legal: list) -> None:
    """Leave one candidate that crashes and one that hangs: each costs a worker, or seconds."""
    crash, hang = (next(d for d in legal if d.tile.columns == n) for n in (1, 2))
    fine = [each for each in legal if each.tile.columns > 2]
    legal[:] = [*fine[:5], crash, hang]


def _opened(run: Search, folder: Path) -> list:
    """Let a search find its tasks before it runs, so that a test can look at them."""
    place = folder / "work"
    place.mkdir()
    run._open(place)
    return run.states


def _run_opened(run: Search, state) -> None:
    run._open = lambda _: None  # it has
    state.folder.mkdir(exist_ok=True)
    run.run()


def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    code = (
        "import sys; from pathlib import Path; from tests.tuning.test_tune import search\n"
        "if __name__ == '__main__': search(Path(sys.argv[1]), trials=1000).run()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], env=environment)
    end = time.monotonic() + 120
    while time.monotonic() < end and not (path.exists() and path.read_text().count("\n") > 9):
        time.sleep(0.05)
    workers = _children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = Records(path)
    assert len(before) > 9
    run = search(path, trials=len(before) + 2)
    summary = run.run()
    assert summary.rows[0].new == 2
    assert list(Records(path))[: len(before)] == list(before)
    assert not [each for each in workers if Path(f"/proc/{each}").exists()]


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in text.split()]


def test_ctrl_c_keeps_what_was_measured_and_chooses_from_it(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"

    def interrupt(_: Search) -> None:
        raise KeyboardInterrupt

    run = search(path, trials=20)
    run._progress = interrupt
    summary = run.run()
    assert summary.ended == "interrupted"
    assert [each.kind for each in Records(path)] == ["trial"] * 8 + ["best"]


def test_an_interrupted_question_is_never_answered_later() -> None:
    worker = Worker(module="tests.tuning.bad_worker")
    hangs = {"command": "build", "decisions": {"tile": [1, 2, 1]}}
    nothing = {"failure": "error: KeyError: 'nothing'"}
    with pytest.raises(KeyboardInterrupt), _interrupted_after(0.1):  # while it starts
        worker.ask(hangs, 60.0)
    assert worker.ask({"command": "nothing"}, 60.0) == nothing
    with pytest.raises(KeyboardInterrupt), _interrupted_after(0.1):
        worker.ask(hangs, 60.0)
    assert worker.ask({"command": "nothing"}, 60.0) == nothing
    assert worker.starts == 3
    worker.close()


@contextlib.contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_the_time_limit_ends_it(tmp_path: Path) -> None:
    summary = search(tmp_path / "r.jsonl", trials=1000, time_limit=0.0).run()
    assert (summary.ended, summary.rows[0].new) == ("time limit", 0)


def test_a_records_file_that_cannot_be_written_ends_it_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"name another file"):
        search(tmp_path / "file" / "r.jsonl").run()


def test_what_cannot_be_timed_here_is_refused() -> None:
    with pytest.raises(TargetError, match="cannot be timed here"):
        xnortvm.tune(None, target="rpi4" if not resolve("rpi4").is_host else "znver4")


def test_no_trials_is_refused() -> None:
    with pytest.raises(ModelError, match="at least 1"):
        xnortvm.tune(None, trials=0)


def test_a_candidate_with_other_bits_never_wins(tmp_path: Path) -> None:
    run = search(tmp_path / "r.jsonl")
    (state,) = _opened(run, tmp_path)
    rule, other, *_ = state.space.legal
    turns = [[10.0] * 3, [1.0] * 3]
    assert run._winner(state, [rule, other], Race(turns, ["a", "b"])).decisions == rule
    won = run._winner(state, [rule, other], Race(turns, ["a", "a"]))
    assert (won.decisions, won.gain) == (other, 10.0)


def test_a_gain_within_the_noise_leaves_the_rule(tmp_path: Path) -> None:
    run = search(tmp_path / "r.jsonl")
    (state,) = _opened(run, tmp_path)
    race = Race([[10.0] * 3, [9.95] * 3], ["a", "a"])
    won = run._winner(state, state.space.legal[:2], race)
    assert isinstance(won, Record)
    assert (won.decisions, won.us) == (state.space.rule, won.rule_us)


def test_the_whole_network_is_timed_beside_the_untuned_one(tmp_path: Path) -> None:
    model, x = network()
    target, path = resolve("llvm"), tmp_path / "r.jsonl"
    graph = lower(model, example_inputs=x)
    with pytest.raises(NotTimedError, match="no record changes a kernel"):
        time_network(graph, target, Records(path))
    records = xnortvm.tune(
        model, example_inputs=x, trials=2, records=path, strategy="random", network=False
    )
    assert records.summary.network_note == "that was not wanted"
    other = next(
        each
        for each in records
        if each.key.op == "bconv2d" and each.decisions != records.best(each.key, target).decisions
    )
    records.append(replace(other, kind="best", us=1.0, rule_us=1000.0))
    found = time_network(graph, target, records)
    assert found.kernels >= 1
    assert found.rule.runs >= 20
    assert found.tuned.median_ms > 0
    records.summary.network = found
    assert "ms by the rules" in str(records.summary)
    assert records.summary.to_json()["network"]["gain"] == found.gain

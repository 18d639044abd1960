# SPDX-License-Identifier: Apache-2.0
"""Measuring on boards: a real tracker and real servers; whatever becomes of a board is survived."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import xnortvm
from tests.tools.trackers import Tracker, free_port, running_tracker
from tests.tuning import lying_server
from tests.tuning.candidates import LAYER, build, faulty
from tests.tuning.networks import binary_task, network
from tests.tuning.test_gpu import needs_nvcc
from xnortvm.errors import BoardError, ModelError, TargetError
from xnortvm.runtime.tracker import Tracker as Address
from xnortvm.target import resolve
from xnortvm.tuning.boards import BoardRunner
from xnortvm.tuning.records import Records
from xnortvm.tuning.search import Options, Search

pytest.importorskip("cloudpickle")
pytest.importorskip("tornado")

LYING = [sys.executable, lying_server.__file__]


@pytest.fixture(scope="module")
def tracker() -> Iterator[Tracker]:
    with running_tracker() as running:
        yield running


@pytest.fixture(scope="module")
def pair(tracker: Tracker):
    """Two boards of a kind, which every test leaves as they were."""
    return tracker.serve("pair"), tracker.serve("pair")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build(tmp_path_factory.mktemp("candidates"), 3)


@pytest.fixture(scope="module")
def run(tracker: Tracker, pair) -> Iterator[BoardRunner]:
    """A runner on the pair, for all tests: whatever they do, it goes on."""
    with runner(tracker, "pair", timeout=4.0) as running:
        yield running


def runner(tracker: Tracker, key: str, timeout: float = 20.0) -> BoardRunner:
    return BoardRunner(Address("127.0.0.1", tracker.port, key), 1, timeout, patience=5.0)


def measured(run: BoardRunner, built: list[Path], batch: list[Path]) -> list:
    return [each.checked() for _, each in run.measure(built[0], batch)]


def places(found: list) -> set[str]:
    return {each.where for each in found}


def both(run: BoardRunner, built: list[Path]) -> list:
    """Measure until two boards have; the second may take a while to be connected."""
    found: list = []
    while len(places(found)) < 2:
        found += measured(run, built, built * 2)
        assert len(found) < 1000
    return found


def wait_for(caplog: pytest.LogCaptureFixture, line: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while line not in caplog.text:
        assert time.monotonic() < end, caplog.text
        time.sleep(0.1)


def names(*boards) -> set[str]:
    return {f"pair at {each.address}" for each in boards}


def test_boards_of_a_kind_measure_in_parallel_and_race_on_one(run, pair, built) -> None:
    found = both(run, built)
    race = run.race(built, 3)
    assert all(each.us > 0 and not each.failure for each in found)
    assert places(found) == names(*pair)
    assert race.where in places(found)
    assert [len(turns) for turns in race.turns] == [3, 3, 3]
    assert len(set(race.digests)) == 1


def test_a_candidate_with_wrong_outputs_is_one_everywhere(run, built, caplog) -> None:
    (found,) = measured(run, built, [faulty(built[0], "wrong")])
    assert found.failure == "wrong: its outputs are not those of the rule's kernel"
    assert not caplog.records


def test_a_board_that_is_stopped_is_dropped_and_may_come_back(run, pair, built, caplog) -> None:
    both(run, built)
    pair[0].send(signal.SIGSTOP)
    try:
        found = measured(run, built, built * 2)
        assert [each.failure for each in found] == [""] * 6
        assert places(found) == names(pair[1])
        wait_for(caplog, f"the board pair at {pair[0].address} is dropped: ")
    finally:
        pair[0].send(signal.SIGCONT)
    assert places(both(run, built)) == names(*pair)


def test_the_only_board_is_not_believed_when_it_finds_wrong_outputs(tracker, built) -> None:
    tracker.serve("only")
    with runner(tracker, "only", timeout=10.0) as alone:
        right, wrong = measured(alone, built, [built[1], faulty(built[0], "wrong")])
    assert {right.failure, wrong.failure} == {
        "",
        "doubtful: on the only board its outputs are not those of the rule's kernel",
    }


@needs_nvcc
def test_a_board_without_a_gpu_is_said(tracker, pair, built) -> None:
    with runner(tracker, "pair") as on_gpu:
        on_gpu.check(resolve("cuda -arch=sm_90a"))
        with pytest.raises(TargetError, match=r"the board 'pair' cannot run .*TVM finds no GPU at"):
            measured(on_gpu, built, built)


def test_a_candidate_that_hangs_costs_itself(run, built) -> None:
    batch = [faulty(built[0], "hang"), *built]
    found = {each.name: result.checked().failure for each, result in run.measure(built[0], batch)}
    assert found == {"hang": "timeout: no answer within 4 s", "c0": "", "c1": "", "c2": ""}


def test_boards_that_tell_lies_are_dropped(tracker, pair, built, caplog, monkeypatch) -> None:
    monkeypatch.setenv("WRONG_LIBRARY", str(faulty(built[0], "wrong") / "kernel.so"))
    reasons = {
        "clock": "it says that a call took nan s",
        "outputs": "another board computes what it does not",
    }
    lying = {tracker.serve("pair", LYING, "--lie", lie): why for lie, why in reasons.items()}
    lines = [f"the board pair at {each.address} is dropped: {why}" for each, why in lying.items()]
    tracker.wait(lambda: tracker.free("pair") == 4)  # other tests' idle sessions end by themselves
    run = runner(tracker, "pair")
    try:
        end = time.monotonic() + 120
        while not all(line in caplog.text for line in lines):
            assert time.monotonic() < end, caplog.text
            found = measured(run, built, built * 4)
            assert [each.failure for each in found] == [""] * 12
    finally:
        run.close()
        for each in lying:
            each.kill()


@pytest.fixture(scope="module")
def doomed(tracker: Tracker):
    boards = tracker.serve("doomed"), tracker.serve("doomed")
    return {f"doomed at {each.address}": each for each in boards}


def test_a_model_is_tuned_on_boards(tracker, doomed, tmp_path: Path) -> None:
    model, x = network()
    where = {"rpc": tracker.address, "key": "doomed", "records": tmp_path / "r.jsonl"}
    found = xnortvm.tune(model[:3], example_inputs=x, trials=2, strategy="random", **where)
    assert {each.kind for each in found} == {"trial", "best"}
    assert {each.where for each in found} <= set(doomed)
    assert found.summary.network_note.startswith("it was measured on boards")


def test_a_board_that_is_lost_costs_its_candidate_and_the_last_one_ends_the_run(
    tracker, doomed, tmp_path: Path, caplog
) -> None:
    killed: list[str] = []

    def kill(search: Search) -> None:
        """Kill the board that measured last, after the first step and when it is the only one."""
        last = list(search.records)[-1].where
        if last not in killed:
            doomed[last].kill()
            killed.append(last)

    records = Records(tmp_path / "r.jsonl")
    options = Options(trials=40, builders=1)
    run = runner(tracker, "doomed")
    search = Search([binary_task(LAYER)], resolve("llvm"), records, options, kill, run)
    summary = search.run()
    assert sorted(killed) == sorted(doomed)
    assert summary.ended == "no board 'doomed' is left"
    wheres = [each.where for each in Records(tmp_path / "r.jsonl") if not each.failure]
    assert set(wheres) == set(doomed)
    assert len(wheres) >= 14  # two steps of 8; what ran on the last board has failed
    assert caplog.text.count("is dropped") == 2


def test_nobody_under_that_key(tracker, pair) -> None:
    reason = r"knows no board 'par' \(did you mean 'pair'\?\)"
    with pytest.raises(BoardError, match=reason):
        xnortvm.tune(None, rpc=tracker.address, key="par")


def test_no_tracker() -> None:
    with pytest.raises(BoardError, match=r"no tracker of TVM answers at .* start one there"):
        xnortvm.tune(None, rpc=f"127.0.0.1:{free_port()}", key="pair")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rpc": "board"}, "needs key="),
        ({"rpc": "board", "key": "k"}, "it is HOST:PORT, such as"),
        ({"key": "k"}, "name their tracker as well"),
    ],
)
def test_arguments_that_do_not_fit(options: dict, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        xnortvm.tune(None, **options)

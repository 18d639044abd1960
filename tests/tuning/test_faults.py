# SPDX-License-Identifier: Apache-2.0
"""Processes that somebody ends or stops, and disks that are full: no record lost, none wrong."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tuning.candidates import LAYER, build
from tests.tuning.networks import binary_task
from tests.tuning.test_records import record
from xnortvm.errors import OutputError
from xnortvm.target import resolve
from xnortvm.tuning.pool import Worker
from xnortvm.tuning.records import Records
from xnortvm.tuning.runner import LocalRunner
from xnortvm.tuning.search import Options, Search
from xnortvm.tuning.space import task_to_bytes

QUICK = "tests.tuning.quick_worker"


def test_a_worker_that_is_killed_is_asked_again(tmp_path: Path) -> None:
    worker = Worker(module=QUICK)
    assert worker.ask({"command": "build"}, 60.0) == {}  # it has started
    timer = threading.Timer(0.3, worker.kill)
    timer.start()
    question = {"command": "sleep", "marker": str(tmp_path / "marker"), "seconds": 60}
    assert worker.ask(question, 90.0, tries=2) == {"first": False}
    assert worker.starts == 2
    worker.close()


def test_a_worker_that_is_killed_while_it_starts_is_started_again() -> None:
    worker = Worker(module=QUICK)

    def kill() -> None:
        while worker._process is None:
            time.sleep(0.001)
        worker.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    assert worker.ask({"command": "build"}, 60.0) == {}
    thread.join()
    assert worker.starts == 2
    worker.close()


def test_a_candidate_that_is_killed_each_time_has_failed() -> None:
    worker = Worker(module=QUICK)
    answer = worker.ask({"command": "die"}, 60.0, tries=2)
    assert answer == {"failure": "crash: the process ended with SIGKILL"}
    assert worker.starts == 2
    worker.close()


def test_the_process_that_measures_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    built = build(tmp_path, 2)
    with LocalRunner(1) as run:
        for _, found in run.measure(built[0], built):
            assert not found.checked().failure
            run._worker.kill()
        assert run._worker.starts == 2


def test_time_in_which_the_tuner_was_stopped_is_not_the_candidates(tmp_path: Path) -> None:
    code = (
        "import sys; from xnortvm.tuning.pool import Worker\n"
        f"worker = Worker(module={QUICK!r})\n"
        "question = {'command': 'sleep', 'marker': sys.argv[1], 'seconds': 1}\n"
        "print(worker.ask(question, 2.5), flush=True)"
    )
    marker = tmp_path / "marker"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(marker)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        while not marker.exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        time.sleep(4)
        process.send_signal(signal.SIGCONT)
        assert process.stdout is not None
        assert process.stdout.read() == "{'first': True}\n"


def test_a_disk_that_fills_up_loses_no_record_and_leaves_no_half_one(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    records = Records(path)
    size = len(record().to_line()) + 1
    with _largest_file(10 * size + size // 2):
        for _ in range(10):
            records.append(record())
        with pytest.raises(OutputError, match="free space there"):
            records.append(record())
    assert len(records) == len(Records(path)) == 10
    assert not Records(path).damaged
    records.append(record())  # once there is space
    assert len(Records(path)) == 11


def test_a_disk_on_which_nothing_can_be_built_ends_the_search_and_blames_no_candidate(
    tmp_path: Path,
) -> None:
    (rule,) = build(tmp_path, 1)
    limit = (rule / "kernel.so").stat().st_size - 1
    task = binary_task(LAYER)
    records = Records(tmp_path / "r.jsonl")
    run = Search([task], resolve("llvm"), records, Options(trials=4, builders=1))
    with _largest_file(limit), pytest.raises(OutputError, match=r"cannot be built in .* TMPDIR"):
        run.run()
    assert not Records(tmp_path / "r.jsonl")
    with _largest_file(len(task_to_bytes(task)) // 2), pytest.raises(OutputError, match="TMPDIR"):
        run.run()


@contextlib.contextmanager
def _largest_file(size: int) -> Iterator[None]:
    """No file can be larger, of this process and those that it starts."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

# SPDX-License-Identifier: Apache-2.0
"""``bench --rpc``: a real tracker and server on loopback; every way to lose a board is told."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from xnortvm.errors import BoardError
from xnortvm.runtime.tracker import Tracker as BoardTracker
from xnortvm.tools import rpc_board

from .small_model import saved
from .trackers import Tracker, free_port, running_tracker

pytest.importorskip("cloudpickle")
pytest.importorskip("tornado")


@pytest.fixture(scope="module")
def tracker() -> Iterator[Tracker]:
    with running_tracker() as running:
        running.serve("here")
        yield running


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("llvm", tmp_path_factory.mktemp("model") / "out")


def bench(cli, model: object, tracker: Tracker, *options: object, key: str = "here"):
    where = ("--rpc", tracker.address, "--key", key, "--timeout", 60)
    return cli("bench", model, *where, *options)


def test_a_folder_is_run_checked_and_timed_on_the_board(cli, out: Path, tracker: Tracker):
    data = bench(cli, out, tracker, "--repeats", 7, "--json").data
    assert data["passed"] is True
    assert data["outputs"] == [{"name": "output0", "largest": 0.0, "fits": True}]
    assert data["latency"]["runs"] == 7
    assert data["latency"]["median_ms"] > 0


def test_a_network_is_compiled_sent_and_checked(cli, tracker: Tracker):
    pytest.importorskip("torch")
    ran = bench(cli, "lenet", tracker, "--num-threads", 2)
    assert ran.status == 0, ran.err
    assert "as expected" in ran.out
    assert "median of 10 calls on 2 threads" in ran.out


def test_wrong_outputs_are_status_1(cli, tracker: Tracker, tmp_path: Path):
    ran = bench(cli, saved("llvm", tmp_path / "wrong", expected=3.0), tracker)
    assert ran.status == 1
    assert "Outputs are WRONG: output0." in ran.out


def fails(cli, reason: str, *arguments: object, **options: str) -> None:
    ran = bench(cli, *arguments, "--quiet", **options)
    assert ran.status == 1
    assert reason in ran.err
    assert ran.err.count("xnortvm: error") == 1


def test_no_tracker(cli, out: Path):
    ran = cli("bench", out, "--rpc", f"127.0.0.1:{free_port()}", "--key", "here")
    assert ran.status == 1
    assert "no tracker of TVM answers at 127.0.0.1:" in ran.err
    assert "python3 -m tvm.exec.rpc_tracker --host 0.0.0.0" in ran.err


def test_no_board_of_that_key(cli, out: Path, tracker: Tracker):
    reason = "knows no board 'there' (did you mean 'here'?), it knows here; start on the board: "
    fails(cli, reason, out, tracker, key="there")


def test_a_board_that_is_in_use(out: Path, tracker: Tracker):
    where = BoardTracker("127.0.0.1", tracker.port, "here")
    with rpc_board.borrowed(where, 60), pytest.raises(BoardError, match="in use by others"):
        rpc_board.borrowed(where, 1).__enter__()


def test_a_library_of_another_architecture(cli, tracker: Tracker, tmp_path: Path):
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("needs zig")
    arm = saved("rpi4" if resolve_family() == "x86_64" else "x86-64-v3", tmp_path / "arm")
    fails(cli, "cannot load a library for", arm, tracker)


def resolve_family() -> str:
    from xnortvm._cpus import host_triple

    return host_triple().partition("-")[0]


def test_a_server_that_is_lost_in_the_middle(out: Path, tracker: Tracker, monkeypatch):
    server = tracker.serve("doomed")
    timer = threading.Timer(1.0, server.kill)

    class TimedToDeath(rpc_board.VirtualMachine):
        """The server dies a second after the board was told to time calls for an hour."""

        def time_evaluator(self, *arguments, **options):
            timer.start()
            return super().time_evaluator(*arguments, **options)

    monkeypatch.setattr(rpc_board, "VirtualMachine", TimedToDeath)
    library = (out / "library.so").read_bytes()
    where = BoardTracker("127.0.0.1", tracker.port, "doomed")
    given = [np.ones((2, 3), "float32")]
    with pytest.raises(BoardError, match=r"'doomed'.* was lost while the model was timed"):
        rpc_board.run(where, library, given, triple="any", repeats=10**8, timeout=60)
    timer.join()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--rpc", "board", "--key", "k"), "it is HOST:PORT, such as"),
        (("--rpc", "board:1"), "--rpc needs --key"),
        (("--rpc", "board:1", "--key", "k", "--profile"), "--profile cannot be had of a board"),
    ],
)
def test_arguments_that_do_not_fit(cli, out: Path, options, reason: str):
    ran = cli("bench", out, *options)
    assert ran.status == 1
    assert reason in ran.err


def test_a_folder_without_example_says_how_to_write_one(cli, tracker, out, tmp_path: Path):
    import xnortvm

    bare = xnortvm.load(out).save_folder(tmp_path / "bare")
    fails(cli, "holds no example inputs; write a folder that does", bare, tracker)

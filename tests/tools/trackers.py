# SPDX-License-Identifier: Apache-2.0
"""A tracker and servers of TVM's RPC as processes on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tvm import rpc

HERE = "127.0.0.1"


class Process:
    """A process and what it starts."""

    def __init__(self, command: Sequence[object], log: Path, port: int) -> None:
        self.log, self.port = log, port
        with log.open("wb") as out:
            self.started = subprocess.Popen(
                list(map(str, command)), stdout=out, stderr=out, start_new_session=True
            )

    @property
    def address(self) -> str:
        """As records name it."""
        return f"{HERE}:{self.port}"

    def send(self, number: int) -> None:
        """Send a signal to all of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.started.pid, number)

    def kill(self) -> None:
        """End all of it at once, as a board does that loses power."""
        self.send(signal.SIGKILL)
        self.started.wait()


class Tracker:
    """A running tracker."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.processes = folder, free_port(), []
        self.start("tracker", [sys.executable, "-m", "tvm.exec.rpc_tracker"], self.port)
        self.wait(self._listens)

    @property
    def address(self) -> str:
        """As ``--rpc`` takes it."""
        return f"{HERE}:{self.port}"

    def start(self, name: str, command: Sequence[object], port: int, *options: object) -> Process:
        """Start a process that listens on one port."""
        where = ("--host", HERE, "--port", port, "--port-end", port + 1)
        log = self.folder / f"{name}-{port}.log"
        process = Process([*command, *where, *options], log, port)
        self.processes.append(process)
        return process

    def serve(self, key: str, command: Sequence[object] = (), *options: object) -> Process:
        """Start a server and wait until it has registered."""
        before = self.free(key)
        command = command or [sys.executable, "-m", "tvm.exec.rpc_server"]
        options = ("--tracker", self.address, "--key", key, *options)
        process = self.start(key, command, free_port(), *options)
        self.wait(lambda: self.free(key) > before)
        return process

    def free(self, key: str) -> int:
        """Return how many boards of a key nobody uses."""
        client = rpc.connect_tracker(HERE, self.port)
        try:
            return int(client.summary()["queue_info"].get(key, {}).get("free", 0))
        finally:
            client.close()

    def _listens(self) -> bool:
        socket.create_connection((HERE, self.port), 1).close()
        return True

    def wait(self, condition: Callable[[], bool], seconds: float = 90) -> None:
        """Wait until a condition holds; an OSError is one that does not."""
        end = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
                raise OSError("not yet")
            except OSError:
                if time.monotonic() > end:
                    logs = [p.log.read_text(errors="replace")[-500:] for p in self.processes]
                    raise TimeoutError("\n".join(logs)) from None
                time.sleep(0.2)


@contextmanager
def running_tracker() -> Iterator[Tracker]:
    """Start a tracker; it and its servers end with the block."""
    with tempfile.TemporaryDirectory() as folder:
        tracker = None
        try:
            tracker = Tracker(Path(folder))
            yield tracker
        finally:
            for process in reversed(tracker.processes if tracker else []):
                process.kill()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return int(probe.getsockname()[1])

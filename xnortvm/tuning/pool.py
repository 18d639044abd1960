# SPDX-License-Identifier: Apache-2.0
"""The tuner's side of its worker processes: questions, answers, time-outs, restarts."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from xnortvm.errors import XnortvmError

#: Seconds that a worker may take to import the compiler, on a slow board as well.
START_SECONDS = 180.0
#: How processes end that somebody else ended.
_FROM_OUTSIDE = frozenset({-signal.SIGKILL, -signal.SIGTERM})
#: Seconds for which an answer is waited for at a time.
_SLICE_SECONDS = 1.0
MODULE = "xnortvm.tuning.worker"


class WorkerError(XnortvmError, RuntimeError):
    """Worker processes cannot be started."""


class Worker:
    """One process that lives until `close`, and is replaced when it crashes or hangs.

    It is started as a program of its own: neither a fork, which would share this process' threads
    and libraries, nor `multiprocessing`, which would run the user's script again.

    Parameters
    ----------
    cores : sequence of int
        What it is pinned to; nothing when empty.
    module : str
        The Python module that it runs.
    """

    def __init__(self, cores: Sequence[int] = (), module: str = MODULE) -> None:
        self._cores, self._module = list(cores), module
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self.starts = 0

    def ask(self, message: dict[str, Any], timeout: float, tries: int = 1) -> dict[str, Any]:
        """Return the answer to a message; ``{"failure": …}`` when the process crashed or hung.

        A process that was ended from outside, by `kill` or for want of memory, is asked again as
        often as `tries` says: that is not the candidate's fault.
        """
        while True:
            tries -= 1
            answer, code = self._ask(message, timeout)
            if code not in _FROM_OUTSIDE or tries < 1:
                return answer

    def _ask(self, message: dict[str, Any], timeout: float) -> tuple[dict[str, Any], int | None]:
        """Return the answer, and how the process ended if it did."""
        try:
            process = self._started()
            assert process.stdin is not None
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
            answer = self._line(timeout)
        except OSError:
            answer = b""
        except BaseException:
            self.close()  # its answer must not be taken for that to the next question
            raise
        if answer is None:
            self.close()
            return {"failure": f"timeout: no answer within {timeout:g} s"}, None
        if not answer:
            code = self._process.wait() if self._process else None
            self.close()
            return {"failure": f"crash: {_ending(code)}"}, code
        return json.loads(answer), None

    def kill(self) -> None:
        """End the process from another thread: a question that waits is answered as a crash."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process; the next `ask` starts another."""
        process, self._process, self._rest = self._process, None, b""
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None:
            return self._process
        if (code := self._start()) in _FROM_OUTSIDE:
            code = self._start()
        if self._process is None:
            raise WorkerError(
                f"a tuning worker could not be started ({_ending(code)}); run "
                f"`{sys.executable} -m {self._module} < /dev/null` to see why"
            )
        return self._process

    def _start(self) -> int | None:
        """Start the process; when it does not come up, say how it ended."""
        environment = dict(os.environ) | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "XNORTVM_WORKER_CORES": json.dumps(self._cores),
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the tuner
            )
        except OSError as error:
            raise WorkerError(f"a tuning worker could not be started: {error}") from error
        self.starts += 1
        ready = self._line(START_SECONDS)
        if ready:
            return None
        code = self._process.wait() if ready == b"" else None
        self.close()
        return code

    def _line(self, timeout: float) -> bytes | None:
        """Return one line, empty when the process ended, None when the time is over."""
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        left = timeout
        while b"\n" not in self._rest:
            # Looked for first and counted in slices: a tuner that is stopped (Ctrl-Z, a laptop
            # that sleeps) does not take the time for the worker's.
            asked, part = time.monotonic(), min(_SLICE_SECONDS, max(left, 0.0))
            if not select.select([descriptor], [], [], part)[0]:
                left -= min(time.monotonic() - asked, part)
                if left <= 0:
                    return None
                continue
            read = os.read(descriptor, 1 << 16)
            if not read:
                return b""
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        return line


def _ending(code: int | None) -> str:
    if code is None:
        return "it did not answer"
    if code < 0:
        return f"the process ended with {signal.Signals(-code).name}"
    return f"the process ended with status {code}"


class Pool:
    """Workers that build, in parallel.

    Parameters
    ----------
    builders : int
    module : str
        The Python module that they run.
    """

    def __init__(self, builders: int, module: str = MODULE) -> None:
        self.builders = [Worker(module=module) for _ in range(builders)]
        self._free: SimpleQueue[Worker] = SimpleQueue()
        for worker in self.builders:
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(builders)

    def build(self, messages: Sequence[dict[str, Any]], timeout: float) -> list[dict[str, Any]]:
        """Return the answers of the builders, in the order of the messages."""

        def one(message: dict[str, Any]) -> dict[str, Any]:
            worker = self._free.get()
            try:
                return worker.ask(message, timeout, tries=2)
            finally:
                self._free.put(worker)

        return list(self._threads.map(one, messages))

    def close(self) -> None:
        """End all processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self.builders:
            worker.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

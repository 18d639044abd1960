# SPDX-License-Identifier: Apache-2.0
"""A process that holds a session of one board and measures candidates there.

TVM's client waits without end for a board that hangs; so that the tuner does not, it is asked in a
process of its own, which can be replaced. Run by `xnortvm.tuning.boards`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from xnortvm.errors import BoardError
from xnortvm.runtime.tracker import FOREIGN, Tracker, request, said
from xnortvm.tuning import timing
from xnortvm.tuning.measurer import serve

_BIG_CORES = 1
#: From the kind of a target to what TVM calls its device.
_DEVICES = {"llvm": "cpu", "cuda": "cuda"}
_RETRY_SECONDS = 1.0


class Session(timing.Sending):
    """A session of a board; what was sent once stays there until it ends.

    Parameters
    ----------
    tracker : Tracker
    wait, seconds : float
        To wait for a free board; until the board ends the session.
    kind : str
        Of the target: "llvm", or "cuda" for the board's GPU.
    """

    def __init__(self, tracker: Tracker, wait: float, seconds: float, kind: str) -> None:
        super().__init__()
        board = request(tracker, wait)
        self.address = board.address
        try:
            self._session = board.connect(seconds)
            self._device = self._session.device(_DEVICES[kind])
            there = kind == "llvm" or self._device.exist
        except Exception as error:
            raise BoardError(f"it cannot be reached ({said(error)})") from error
        if not there:
            raise NoGpuError(f"TVM finds no GPU at {self.address}")
        self._libraries = 0
        self._expected: dict[Path, str] = {}
        self._threads = 1

    def load(self, path: Path) -> Any:
        """Send a library and load it."""
        self._libraries += 1  # a name that was loaded before would give the old library
        name = f"{self._libraries}.so"
        self._session.upload(bytearray(path.read_bytes()), name)
        library = self._session.load_module(name)
        self._session.remove(name)
        return library

    def device(self) -> Any:
        """Return the CPU or the GPU of the board."""
        return self._device

    def use_threads(self, count: int) -> None:
        """Set up the pool of the board."""
        if count != self._threads:
            self._session.get_function("runtime.config_threadpool")(_BIG_CORES, count)
            self._threads = count

    def expected(self, rule: Path, threads: int, *, again: bool = False) -> str:
        """Return the digest of the outputs of the rule's kernel on this board."""
        if again or rule not in self._expected:
            self._expected[rule] = timing.Loaded(rule, self, threads).digest()
        return self._expected[rule]

    def lives(self) -> bool:
        """Whether the board still answers."""
        try:
            self._session.get_function("runtime.config_threadpool")
        except Exception:
            return False
        return True


class NoGpuError(BoardError):
    """A board without a GPU, for a target that is one."""


_session: list[Session] = []


def connect(message: dict[str, Any]) -> dict[str, Any]:
    """Take a board."""
    _session.clear()  # its end gives the board back
    tracker = Tracker(message["host"], message["port"], message["key"])
    end = time.monotonic() + message["wait"]
    while True:
        left = end - time.monotonic()
        try:
            wait, seconds = max(left, 0.0), message["seconds"]
            _session.append(Session(tracker, wait, seconds, message["kind"]))
            return {"address": _session[0].address}
        except NoGpuError as error:
            return {"failure": f"foreign: {error}"}
        except BoardError as error:
            if left < _RETRY_SECONDS:
                return {"failure": f"lost: {error}"}
            time.sleep(_RETRY_SECONDS)  # a board that starts again, or a tracker


def measure(message: dict[str, Any]) -> dict[str, Any]:
    """Time one candidate, and look that its outputs are those of the rule."""
    place, threads, rule = _session[0], message["threads"], Path(message["rule"])
    try:
        expected = place.expected(rule, threads)
    except Exception as error:
        return _failed(error, "rule")
    try:
        found = timing.measure(Path(message["folder"]), place, threads)
        if found["digest"] != expected and expected != place.expected(rule, threads, again=True):
            raise timing.NonsenseError("the same kernel gives other outputs each time")
    except Exception as error:
        return _failed(error, "error")
    return found | {"expected": expected}


def race(message: dict[str, Any]) -> dict[str, Any]:
    """Time candidates in turns."""
    folders = [Path(each) for each in message["folders"]]
    try:
        return timing.race(folders, _session[0], message["threads"], message["turns"])
    except Exception as error:
        return _failed(error, "error")


def _failed(error: Exception, kind: str) -> dict[str, Any]:
    """Say whose fault it was: that of the candidate, unless the board is gone."""
    if isinstance(error, timing.NonsenseError):
        raise error
    if not _session[0].lives():
        _session.clear()
        return {"failure": f"lost: {said(error)}"}
    if FOREIGN.search(str(error)):
        return {"failure": f"foreign: {said(error)}"}
    return {"failure": f"{kind}: {said(error)}"}


COMMANDS = {"connect": connect, "measure": measure, "race": race}

if __name__ == "__main__":
    serve(COMMANDS, "tvm.rpc")
    os._exit(0)  # the destructors of a lost session wait for the board

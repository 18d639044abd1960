# SPDX-License-Identifier: Apache-2.0
"""A process that measures candidates until its standard input ends; it needs no compiler.

One JSON object a line comes in, one goes out. Nothing that a candidate does can reach the tuner but
the end of this process: crashes, endless loops, wrong code.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from xnortvm.tuning import timing
from xnortvm.tuning.timing import NonsenseError

Command = Callable[[dict[str, Any]], dict[str, Any]]


def measure(message: dict[str, Any]) -> dict[str, Any]:
    """Time one candidate alone."""
    return timing.measure(Path(message["folder"]), _place(message), message["threads"])


def race(message: dict[str, Any]) -> dict[str, Any]:
    """Time candidates in turns."""
    folders = [Path(each) for each in message["folders"]]
    return timing.race(folders, _place(message), message["threads"], message["turns"])


def _gpu() -> timing.Place:
    from xnortvm.tuning.gpu_place import Gpu

    return Gpu()


#: Where this process runs kernels.
PLACES: dict[str, Callable[[], timing.Place]] = {"here": timing.Here, "gpu": lru_cache(_gpu)}


def _place(message: dict[str, Any]) -> timing.Place:
    return PLACES[message.get("place", "here")]()


COMMANDS: dict[str, Command] = {"measure": measure, "race": race}


def serve(commands: Mapping[str, Command], module: str) -> None:
    """Answer the messages on the standard input until it ends.

    Parameters
    ----------
    commands : mapping
        From the name of a command to what answers it.
    module : str
        What is imported first, so that no candidate's time-out pays for it.
    """
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints must not get between the answers
    importlib.import_module(module)
    cores = json.loads(os.environ.get("XNORTVM_WORKER_CORES", "[]"))
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    print(json.dumps({"ready": os.getpid()}), file=answers, flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        try:
            answer = commands[message["command"]](message)
        except NonsenseError as error:
            answer = {"failure": f"nonsense: {error}"}
        except Exception as error:  # one candidate's, whatever it is
            last = str(error).strip().splitlines()[-1:] or [""]
            answer = {"failure": f"error: {type(error).__name__}: {last[0]}"}
        print(json.dumps(answer), file=answers, flush=True)


def _die_with_parent() -> None:
    """End at once when the tuner ends, also inside of compiled code (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    serve(COMMANDS, "xnortvm._tvm_runtime")

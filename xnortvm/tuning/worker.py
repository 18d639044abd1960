# SPDX-License-Identifier: Apache-2.0
"""A process that builds or measures candidates until its standard input ends.

One JSON object a line comes in, one goes out. It imports the compiler once. Nothing that a
candidate does can reach the tuner but the end of this process: crashes, endless loops, wrong code.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import pickle
import signal
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

KERNEL = "kernel"
#: Seconds of a timed sample: less than the time slices of the operating system, so that most
#: samples run without interruption. Samples of one measurement and of one turn of a comparison.
_SAMPLE_SECONDS, _SAMPLES, _TURN_SAMPLES = 3e-4, 60, 8


def _target(message: dict[str, Any]) -> Any:
    from xnortvm.target import resolve

    return resolve(message["target"], num_threads=message["threads"])


@lru_cache(maxsize=1)
def _task(path: str) -> Any:
    from xnortvm.tuning.space import task_from_bytes

    return task_from_bytes(None, Path(path).read_bytes())


def build(message: dict[str, Any]) -> dict[str, Any]:
    """Compile one candidate of a task into a folder."""
    from xnortvm._tvm import ir, tvm
    from xnortvm.runtime.link import link
    from xnortvm.schedules import DECIDED_BY
    from xnortvm.schedules.decisions import Decisions
    from xnortvm.tuning import space

    target = _target(message)
    decisions = Decisions.from_json(message["decisions"])
    lowered = space.lower(_task(message["task"]), target, decisions, scheduled=True)
    if str(lowered.func.attrs[DECIDED_BY]) == "rule":
        return {"failure": f"illegal: the rule does not allow {decisions}"}
    func = lowered.func.with_attr("global_symbol", KERNEL)
    library = tvm.compile(ir.IRModule({KERNEL: func}), target.tvm)
    folder = Path(message["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    inputs = space.random_inputs(lowered)
    arguments = [inputs[each] if isinstance(each, int) else each for each in lowered.arguments]
    (folder / "kernel.so").write_bytes(link(library, target.link))
    shared = folder.parent / f"arguments-{decisions.form}-{decisions.width}.pickle"
    if not shared.exists():
        part = shared.with_suffix(f".{os.getpid()}")
        part.write_bytes(pickle.dumps((arguments, lowered.outputs)))
        part.replace(shared)
    (folder / "arguments").write_text(shared.name)
    return {}


class _Loaded:
    """A built candidate, ready to run."""

    def __init__(self, folder: str, threads: int) -> None:
        import numpy as np

        from xnortvm._tvm_runtime import runtime
        from xnortvm.runtime.threads import use_threads

        use_threads(threads)
        path = Path(folder)
        shared = path.parent / (path / "arguments").read_text()
        arguments, outputs = pickle.loads(shared.read_bytes())
        self.library = runtime.load_module(str(path / "kernel.so"))
        self.outputs = [runtime.tensor(np.zeros(*each)) for each in outputs]
        self.arguments = [*map(runtime.tensor, arguments), *self.outputs]
        self.library[KERNEL](*self.arguments)
        self.number = max(1, int(_SAMPLE_SECONDS / self._seconds(1, 3)[0]))

    def digest(self) -> str:
        """Return a name for the bytes of the outputs of the first run."""
        found = hashlib.sha256()
        for output in self.outputs:
            found.update(output.numpy().tobytes())
        return found.hexdigest()

    def _seconds(self, number: int, repeat: int) -> list[float]:
        from xnortvm._tvm_runtime import tvm

        timer = self.library.time_evaluator(KERNEL, tvm.cpu(), number=number, repeat=repeat)
        return sorted(map(float, timer(*self.arguments).results))

    def sample(self, count: int) -> list[float]:
        """Return the microseconds of one call, from so many samples, sorted."""
        return [seconds * 1e6 for seconds in self._seconds(self.number, count)]


def measure(message: dict[str, Any]) -> dict[str, Any]:
    """Time one candidate alone; the lower quartile and the distance to it of the median."""
    loaded = _Loaded(message["folder"], message["threads"])
    digest = loaded.digest()
    loaded.sample(3)
    times = loaded.sample(_SAMPLES)
    quarter, half = times[len(times) // 4], times[len(times) // 2]
    return {"us": quarter, "noise": (half - quarter) / quarter, "digest": digest}


def race(message: dict[str, Any]) -> dict[str, Any]:
    """Time candidates in turns, so that a slow spell of the machine hits all of them."""
    runners = [_Loaded(folder, message["threads"]) for folder in message["folders"]]
    turns: list[list[float]] = [[] for _ in runners]
    for _ in range(message["turns"]):
        for runner, times in zip(runners, turns, strict=True):
            runner.sample(1)  # what ran in between has the caches
            times.append(runner.sample(_TURN_SAMPLES)[_TURN_SAMPLES // 4])
    return {"turns": turns, "digests": [runner.digest() for runner in runners]}


COMMANDS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "build": build,
    "measure": measure,
    "race": race,
}


def main() -> None:
    """Answer until the input ends."""
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints must not get between the answers
    import xnortvm.tuning.space  # noqa: F401 - now, so that no candidate's time-out pays for it

    cores = json.loads(os.environ.get("XNORTVM_WORKER_CORES", "[]"))
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    print(json.dumps({"ready": os.getpid()}), file=answers, flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        try:
            answer = COMMANDS[message["command"]](message)
        except Exception as error:  # one candidate's, whatever it is
            said = str(error).strip().splitlines()[-1:] or [""]
            answer = {"failure": f"error: {type(error).__name__}: {said[0]}"}
        print(json.dumps(answer), file=answers, flush=True)


def _die_with_parent() -> None:
    """End at once when the tuner ends, also inside of compiled code (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    main()

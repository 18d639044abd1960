# SPDX-License-Identifier: Apache-2.0
"""The process of one engine: reads a line of JSON, does what it says, answers with a line.

=============================================  ====================================
message                                        answer
=============================================  ====================================
``{"do": "prepare", "engine": …, "folder": …,  ``{"note": …}`` or ``{"cannot": …}``
"num_threads": …}``
``{"do": "outputs"}``                          ``{"file": …}``: an ``.npz``
``{"do": "run", "times": n}``                  ``{"ms": [t1, …, tn]}``
=============================================  ====================================

Between messages it sleeps in a read, so that only one engine at a time uses the machine. The end
of the input ends it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .job import CannotRunError, Engine, Job


def _prepare(message: dict[str, Any]) -> Engine:
    folder = Path(message["folder"])
    with np.load(folder / "inputs.npz") as stored:
        inputs = [stored[f"arr_{index}"] for index in range(len(stored.files))]
    module = importlib.import_module(f".{message['engine']}", __package__)
    prepare: Callable[[Job], Engine] = module.prepare
    return prepare(Job(folder, inputs, int(message["num_threads"])))


def _times(engine: Engine, count: int) -> list[float]:
    clock, run = time.perf_counter_ns, engine.run
    run()  # what ran in between has the caches; its cost is not this engine's
    times = []
    for _ in range(count):
        start = clock()
        run()
        times.append((clock() - start) / 1e6)
    return times


def _answer(message: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    if message["do"] == "prepare":
        try:
            engine = _prepare(message)
            engine.run()
        except CannotRunError as reason:
            return {"cannot": str(reason)}
        except ImportError as error:
            return {"cannot": f"it needs a package that cannot be imported ({error})"}
        state["engine"], state["folder"] = engine, Path(message["folder"])
        return {"note": engine.note}
    engine = state["engine"]
    if message["do"] == "outputs":
        file = state["folder"] / f"outputs-{os.getpid()}.npz"
        np.savez(file, *engine.outputs(engine.run()))
        return {"file": str(file)}
    return {"ms": _times(engine, int(message["times"]))}


def serve() -> None:
    """Answer messages until the input ends; engines may print, it goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    state: dict[str, Any] = {}
    for line in sys.stdin:
        try:
            answer = _answer(json.loads(line), state)
        except Exception as error:
            last = (str(error).strip().splitlines() or [""])[-1]
            answer = {"failed": f"{type(error).__name__}: {last}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()

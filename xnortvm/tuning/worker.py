# SPDX-License-Identifier: Apache-2.0
"""A process that builds or measures candidates until its standard input ends.

One JSON object a line comes in, one goes out. It imports the compiler once. Nothing that a
candidate does can reach the tuner but the end of this process: crashes, endless loops, wrong code.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import json
import os
import pickle
import signal
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from xnortvm.tuning import timing
from xnortvm.tuning.timing import KERNEL, NonsenseError

Command = Callable[[dict[str, Any]], dict[str, Any]]


def _target(message: dict[str, Any]) -> Any:
    from xnortvm.target import resolve

    return resolve(message["target"], num_threads=message["threads"])


@lru_cache(maxsize=1)
def _task(path: str) -> Any:
    from xnortvm.tuning.space import task_from_bytes

    return task_from_bytes(None, Path(path).read_bytes())


def build(message: dict[str, Any]) -> dict[str, Any]:
    """Compile one candidate of a task into a folder, as a library."""
    from xnortvm.runtime.link import link

    def write(library: Any, target: Any, folder: Path) -> None:
        (folder / "kernel.so").write_bytes(link(library, target.link))

    return _build(message, KERNEL, write)


def build_object(message: dict[str, Any]) -> dict[str, Any]:
    """Compile one candidate of a task into a folder, as an object with a name of its own."""

    def write(library: Any, _: Any, folder: Path) -> None:
        library.mod.write_to_file(str(folder / "kernel.o"), "o")

    return _build(message, symbol_of(Path(message["folder"])), write)


def symbol_of(folder: Path) -> str:
    """Return the name of the kernel in the object of a candidate."""
    return f"{KERNEL}_{folder.name}"


def _build(
    message: dict[str, Any], symbol: str, write: Callable[[Any, Any, Path], None]
) -> dict[str, Any]:
    from xnortvm._tvm import ir, tvm
    from xnortvm.runtime.build import device_compiler
    from xnortvm.schedules import DECIDED_BY
    from xnortvm.schedules.decisions import read_decisions
    from xnortvm.tuning import space

    target = _target(message)
    decisions = read_decisions(message["decisions"])
    lowered = space.lower(_task(message["task"]), target, decisions, scheduled=True)
    if str(lowered.func.attrs[DECIDED_BY]) == "rule":
        return {"failure": f"illegal: the rule does not allow {decisions}"}
    func = lowered.func.with_attr("global_symbol", symbol)
    with device_compiler(target):
        library = tvm.compile(ir.IRModule({symbol: func}), target.tvm)
    folder = Path(message["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    inputs = space.random_inputs(lowered)
    arguments = [inputs[each] if isinstance(each, int) else each for each in lowered.arguments]
    write(library, target, folder)
    data = pickle.dumps((arguments, lowered.outputs))
    # Many candidates are called with the same: weights differ by the order that they lie in.
    shared = folder.parent / f"arguments-{hashlib.sha256(data).hexdigest()[:16]}.pickle"
    if not shared.exists():
        part = shared.with_suffix(f".{os.getpid()}")
        part.write_bytes(data)
        part.replace(shared)
    (folder / "arguments").write_text(shared.name)
    return {}


def read_arguments(folder: Path) -> tuple[list[Any], list[tuple[tuple[int, ...], str]]]:
    """Return what a candidate is called with, and the shapes and dtypes of its outputs."""
    shared = folder.parent / (folder / "arguments").read_text()
    arguments, outputs = pickle.loads(shared.read_bytes())
    return arguments, outputs


def build_module(message: dict[str, Any]) -> dict[str, Any]:
    """Compile the module of a MetaSchedule candidate in its folder, with random arguments."""
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    from xnortvm._tvm import ir, tvm
    from xnortvm.runtime.link import link
    from xnortvm.tuning import space

    target, folder = _target(message), Path(message["folder"])
    mod = ir.load_json((folder / "module.json").read_text())
    mod = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(mod)
    (func,) = mod.functions.values()
    library = tvm.compile(
        ir.IRModule({KERNEL: func.with_attr("global_symbol", KERNEL)}), target.tvm
    )
    specs = [(tuple(map(int, each.shape)), str(each.dtype)) for each in func.params]
    (folder / "kernel.so").write_bytes(link(library, target.link))
    (folder / "arguments.pickle").write_bytes(pickle.dumps((space.random_arrays(specs), [])))
    (folder / "arguments").write_text(f"{folder.name}/arguments.pickle")
    return {}


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


COMMANDS: dict[str, Command] = {
    "build": build,
    "build_object": build_object,
    "build_module": build_module,
    "measure": measure,
    "race": race,
}


def main() -> None:
    """Answer until the input ends."""
    serve(COMMANDS, "xnortvm.tuning.space")


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
    main()

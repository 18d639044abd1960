# SPDX-License-Identifier: Apache-2.0
"""A process that builds candidates, or measures them, until its standard input ends.

It imports the compiler once; what crashes the compiler ends only this process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from xnortvm.tuning import arguments, measurer
from xnortvm.tuning.measurer import Command, serve
from xnortvm.tuning.timing import KERNEL


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
    write(library, target, folder)
    arguments.write(folder, lowered.arguments, lowered.inputs, lowered.outputs)
    return {}


def build_module(message: dict[str, Any]) -> dict[str, Any]:
    """Compile the module of a MetaSchedule candidate in its folder, with random arguments."""
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    from xnortvm._tvm import ir, tvm
    from xnortvm.runtime.link import link

    target, folder = _target(message), Path(message["folder"])
    mod = ir.load_json((folder / "module.json").read_text())
    mod = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(mod)
    (func,) = mod.functions.values()
    library = tvm.compile(
        ir.IRModule({KERNEL: func.with_attr("global_symbol", KERNEL)}), target.tvm
    )
    specs = [(tuple(map(int, each.shape)), str(each.dtype)) for each in func.params]
    (folder / "kernel.so").write_bytes(link(library, target.link))
    arguments.write(folder, list(range(len(specs))), specs, [])
    return {}


COMMANDS: dict[str, Command] = {
    "build": build,
    "build_object": build_object,
    "build_module": build_module,
    **measurer.COMMANDS,
}


def main() -> None:
    """Answer until the input ends."""
    serve(COMMANDS, "xnortvm.tuning.space")


if __name__ == "__main__":
    main()

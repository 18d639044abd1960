# SPDX-License-Identifier: Apache-2.0
"""Built candidates of one small layer, and such that crash, hang or compute something else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.tuning.networks import binary_task
from xnortvm.runtime.link import find_linker
from xnortvm.target import resolve
from xnortvm.tools.layer_modules import Layer
from xnortvm.tuning import worker
from xnortvm.tuning.space import space_of, task_to_bytes

LAYER = Layer(3, 32, 8, 32, 1)
#: What the kernel of a faulty candidate does.
FAULTS = {
    "crash": "*(volatile int *)0 = 1;",
    "hang": "for (;;) sleep(1);",
    "wrong": "",
}
_SOURCE = (
    "#include <unistd.h>\nint __tvm_ffi_kernel(void *h, void *a, int n, void *r) {%s return 0;}"
)


def build(folder: Path, count: int, target: str = "llvm") -> list[Path]:
    """Build the first candidates of the layer; the rule's comes first."""
    task = binary_task(LAYER)
    (folder / "task.json").write_bytes(task_to_bytes(task))
    resolved = resolve(target)
    space = space_of(task, resolved)
    assert space is not None
    made = []
    for number, decisions in enumerate(space.legal[:count]):
        message = {
            "task": str(folder / "task.json"),
            "target": resolved.name,
            "threads": 1,
            "decisions": decisions.to_json(),
            "folder": str(folder / f"c{number}"),
        }
        assert worker.build(message) == {}
        made.append(folder / f"c{number}")
    return made


def faulty(like: Path, fault: str) -> Path:
    """Make a candidate that is called like another and has a fault."""
    folder = like.with_name(fault)
    folder.mkdir(exist_ok=True)
    source = folder / "kernel.c"
    source.write_text(_SOURCE % FAULTS[fault])
    shutil.copy(like / "arguments", folder)
    linker, library = find_linker(), folder / "kernel.so"
    subprocess.run([*linker.command, *linker.flags, "-o", library, source], check=True)
    return folder

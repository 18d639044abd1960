# SPDX-License-Identifier: Apache-2.0
"""Programs → one executable that runs them in an emulated process → what they computed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xnortvm.emulation import needs
from xnortvm.emulation.profile import Caches, CallProfile, read_profile
from xnortvm.emulation.program import OUTPUT, Program, tables
from xnortvm.errors import CompileError
from xnortvm.target import Target

Array = np.ndarray[Any, Any]

SIGNALS = {
    4: "unknown instruction",
    7: "misaligned access",
    8: "division",
    11: "access beside an array",
}

#: What is said of a program of which nothing was heard.
UNFINISHED = "did not finish"


@dataclass
class Ran:
    """How a program went.

    Attributes
    ----------
    complaint : str
        What went wrong, "" when every kernel returned.
    outputs : dict of int to ndarray
        What the slots with the role `OUTPUT` and data of their own hold after it.
    profiles : list of CallProfile
        One for each call, when that was asked for.
    """

    complaint: str = UNFINISHED
    outputs: dict[int, Array] = field(default_factory=dict)
    profiles: list[CallProfile] = field(default_factory=list)


def emulate(
    programs: Sequence[Program],
    library: Any,
    target: Target,
    *,
    caches: Caches | None = None,
    limit_s: float = 3600.0,
) -> list[Ran]:
    """Run programs in qemu.

    Parameters
    ----------
    programs : sequence of Program
    library : tvm.runtime.Executable, or list of Path
        Holds every kernel that the programs call; or object files that do.
    target : Target
        What the library was made for.
    caches : Caches, optional
        With them every call is profiled; it runs a second time for that, on warm caches. Without,
        arrays lie between pages that a kernel must not touch.
    limit_s : float
        The emulator is stopped after so many seconds.

    Returns
    -------
    list of Ran
        One for each program.

    Raises
    ------
    MissingDependencyError
        When the emulator or a cross compiler is missing.
    CompileError
        When the programs cannot be linked, or the emulator itself fails.
    """
    machine = needs.machine_of(target.link)
    qemu = needs.find_qemu(machine)
    with tempfile.TemporaryDirectory(prefix="xnortvm-emulated-") as scratch:
        folder = Path(scratch)
        _link(programs, library, machine, folder)
        profile = folder / "profile.txt"
        command = [qemu]
        if caches is not None:
            command += ["-plugin", f"{needs.plugin(qemu)},out={profile},{caches.arguments}"]
        mode = "guarded" if caches is None else "marked"
        command += ["./driver", "blob.bin", "results.bin", mode]
        lines, said = _run(command, folder, limit_s)
        late = said == _late(limit_s)
        heard = [line.split()[0] for line in lines if line.split()]
        if not late and not any(word in _READERS or word == "done" for word in heard):
            said = said or (lines[-1] if lines else "no message")
            raise CompileError(f"{machine.qemu} ran nothing: {said}")
        ran = _verdicts(lines, programs)
        for each in ran if late else []:
            each.complaint = said if each.complaint == UNFINISHED else each.complaint
        _outputs(ran, programs, (folder / "results.bin").read_bytes())
        if caches is not None and profile.exists():
            for call in read_profile(profile.read_text()):
                ran[call.program].profiles.append(call)
    return ran


def _link(programs: Sequence[Program], library: Any, machine: needs.Machine, folder: Path) -> None:
    for name in ("driver.c", "backend.h", "programs.h"):
        shutil.copy(needs.HERE / name, folder)
    objects = [str(each) for each in library] if isinstance(library, list) else []
    if not objects:
        objects = [str(folder / "kernels.o")]
        library.mod.write_to_file(objects[0], "o")
    source, blob = tables(programs, expected=False)
    (folder / "tables.c").write_text(source)
    (folder / "blob.bin").write_bytes(blob)
    command = needs.find_cross_compiler(machine)
    sources = [str(folder / name) for name in ("driver.c", "tables.c")]
    needs.do([*command, "-O2", "-static", *sources, *objects, "-o", str(folder / "driver"), "-lm"])


def _run(command: list[str], folder: Path, limit_s: float) -> tuple[list[str], str]:
    """Return what was printed, and why the emulator stopped before its time."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env={},  # it lies on the stack, whose place the caches would see
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
            return out.splitlines(), _late(limit_s)
    said = [line for line in err.splitlines() if line.strip()]
    return out.splitlines(), said[-1] if said else ""


def _late(limit_s: float) -> str:
    return f"stopped after {limit_s:g} s"


def _verdicts(lines: Sequence[str], programs: Sequence[Program]) -> list[Ran]:
    ran = [Ran() for _ in programs]
    said = ""
    for line in lines:
        word, *rest = line.split() or [""]
        if word == "said":
            said = line.partition(" ")[2]
        if word not in _READERS or not rest:
            continue
        index, *numbers = (int(number) for number in rest)
        text = _READERS[word](programs[index], numbers)
        ran[index].complaint = ": ".join(filter(None, (text, said)))
        said = ""
    return ran


def _outputs(ran: Sequence[Ran], programs: Sequence[Program], results: bytes) -> None:
    at = 0
    for each, program in zip(ran, programs, strict=True):
        if each.complaint:
            continue
        for index, slot in enumerate(program.slots):
            if slot.role != OUTPUT or slot.view_of >= 0:
                continue
            found = np.frombuffer(results, slot.value.dtype, slot.value.size, at)
            each.outputs[index] = found.reshape(slot.value.shape)
            at += slot.value.nbytes


def writer(program: Program, slot: int) -> str:
    """Name a slot by the kernel that writes it."""
    for kernel, slots in program.calls:
        if slot in slots:
            return f"argument {slots.index(slot)} of {kernel}"
    return f"slot {slot}"


def _stray(program: Program, numbers: Sequence[int]) -> str:
    return f"something was written beside {writer(program, numbers[0])}"


def _error(program: Program, numbers: Sequence[int]) -> str:
    return f"{program.calls[numbers[0]][0]} returned an error"


def _exception(program: Program, numbers: Sequence[int]) -> str:
    call, number, address = numbers
    name = SIGNALS.get(number, f"signal {number}")
    return f"{name} in {program.calls[call][0]} (address {address:#x})"


_READERS: dict[str, Callable[[Program, Sequence[int]], str]] = {
    "ran": lambda program, numbers: "",
    "stray": _stray,
    "error": _error,
    "exception": _exception,
    "full": lambda program, numbers: "the arrays do not fit the memory",
}

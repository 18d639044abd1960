# SPDX-License-Identifier: Apache-2.0
"""Programs → a disk image that runs them on the bare machine and compares what they compute."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ALIGNMENT = 64

# Without the vector registers, so that nothing but the kernels uses them.
COMPILE = ["gcc", "-c", "-O2", "-Wall", "-ffreestanding", "-fno-pic", "-fno-stack-protector"]
COMPILE += ["-mno-red-zone", "-mgeneral-regs-only"]
LINK = ["ld", "-nostdlib", "--build-id=none", "--orphan-handling=error"]

#: A disk of whole cylinders, which is how the emulator's BIOS counts.
CYLINDER = 16 * 63 * 512

TYPE_CODES = {"i": 0, "u": 1, "f": 2}
INPUT, OUTPUT, SCRATCH = "INPUT", "OUTPUT", "SCRATCH"


@dataclass
class Slot:
    """One array of a program: what an input is, what an output must be, a scratch's shape."""

    role: str
    value: np.ndarray[Any, Any]


@dataclass
class Program:
    """Kernels that run one after the other on arrays they share.

    Attributes
    ----------
    name : str
        For people.
    slots : list of Slot
    calls : list of (str, list of int)
        Name of a kernel and the slots that are its arguments, in order.
    """

    name: str
    slots: list[Slot] = field(default_factory=list)
    calls: list[tuple[str, list[int]]] = field(default_factory=list)

    def add(self, role: str, value: np.ndarray[Any, Any]) -> int:
        """Add an array and return the number of its slot."""
        self.slots.append(Slot(role, np.ascontiguousarray(value)))
        return len(self.slots) - 1


def make_image(programs: Sequence[Program], library: Any, folder: Path) -> Path:
    """Write ``disk.img`` to a folder.

    Parameters
    ----------
    programs : sequence of Program
    library : tvm.runtime.Executable
        Holds every kernel that the programs call.
    folder : path
        Also gets ``image.elf``, whose symbols explain addresses.

    Returns
    -------
    path
        Of the disk.
    """
    for name in ("start.S", "machine.c", "machine.h", "image.ld"):
        shutil.copy(HERE / name, folder)
    library.mod.write_to_file(str(folder / "kernels.o"), "o")
    tables, blob = _tables(programs)
    (folder / "tables.c").write_text(tables)
    (folder / "blob.bin").write_bytes(blob)
    sources = ("start.S", "machine.c", "tables.c")
    for source in sources:
        _do(folder, *COMPILE, source)
    objects = [source.rsplit(".", 1)[0] + ".o" for source in sources]
    _do(folder, *LINK, "-T", "image.ld", "-o", "image.elf", *objects, "kernels.o")
    disk = b""
    for section in (".boot", ".image"):
        _do(folder, "objcopy", "-O", "binary", "-j", section, "image.elf", "section.bin")
        disk += (folder / "section.bin").read_bytes()
    path = folder / "disk.img"
    path.write_bytes(disk + bytes(-len(disk) % CYLINDER))
    return path


def symbol_at(address: int, folder: Path) -> str:
    """Return the function that an address of the image lies in, and how far behind its start."""
    listed = subprocess.run(
        ["nm", "--numeric-sort", "image.elf"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    found = "an unknown place"
    for line in listed.stdout.splitlines():
        start, kind, name = line.split()
        if kind in "tT" and int(start, 16) <= address:
            found = f"{name}+{address - int(start, 16):#x}"
    return found


def _do(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")


def _tables(programs: Sequence[Program]) -> tuple[str, bytes]:
    """Return the C source of the tables and the contents of inputs and expected outputs."""
    lines = ['#include "machine.h"']
    blob = bytearray()
    kernels = sorted({kernel for program in programs for kernel, _ in program.calls})
    lines += [f"extern Kernel __tvm_ffi_{kernel};" for kernel in kernels]
    for number, program in enumerate(programs):
        lines.append(f"static const Array arrays{number}[] = {{")
        for slot in program.slots:
            lines.append(_array(slot, len(blob)))
            if slot.role != SCRATCH:
                blob += slot.value.tobytes()
                blob += bytes(-len(blob) % ALIGNMENT)
        lines.append("};")
        calls = []
        for kernel, slots in program.calls:
            listed = ", ".join(map(str, slots))
            calls.append(f"  {{__tvm_ffi_{kernel}, {len(slots)}, (const int32_t[]){{{listed}}}}},")
        lines += [f"static const Call calls{number}[] = {{", *calls, "};"]
    lines.append("const Program programs[] = {")
    lines += [
        f"  {{{len(program.slots)}, {len(program.calls)}, arrays{i}, calls{i}}},"
        for i, program in enumerate(programs)
    ]
    lines += ["};", f"const int32_t program_count = {len(programs)};", ""]
    return "\n".join(lines), bytes(blob)


def _array(slot: Slot, offset: int) -> str:
    value = slot.value
    shape = ", ".join(map(str, value.shape))
    code, bits = TYPE_CODES[value.dtype.kind], 8 * value.dtype.itemsize
    numbers = f"{code}, {bits}, {value.ndim}, {{{shape}}}, {value.nbytes}u, {offset}u"
    return f"  {{{slot.role}, {numbers}}},"

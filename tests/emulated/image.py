# SPDX-License-Identifier: Apache-2.0
"""Programs → a disk image that runs them on the bare machine and compares what they compute."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xnortvm.emulation import needs
from xnortvm.emulation.program import Program
from xnortvm.emulation.program import tables as program_tables

HERE = Path(__file__).parent

# Without the vector registers, so that nothing but the kernels uses them.
COMPILE = ["gcc", "-c", "-O2", "-Wall", "-ffreestanding", "-fno-pic", "-fno-stack-protector"]
COMPILE += ["-mno-red-zone", "-mgeneral-regs-only"]
LINK = ["ld", "-nostdlib", "--build-id=none", "--orphan-handling=error"]

#: A disk of whole cylinders, which is how the emulator's BIOS counts.
CYLINDER = 16 * 63 * 512


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
    for name in ("start.S", "machine.c", "image.ld"):
        shutil.copy(HERE / name, folder)
    for name in ("backend.h", "programs.h"):
        shutil.copy(needs.HERE / name, folder)
    library.mod.write_to_file(str(folder / "kernels.o"), "o")
    tables, blob = program_tables(programs)
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

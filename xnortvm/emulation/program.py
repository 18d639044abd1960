# SPDX-License-Identifier: Apache-2.0
"""Kernels that run one after the other on arrays they share, and the C tables that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Of every array in memory.
ALIGNMENT = 64

TYPE_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
INPUT, OUTPUT, SCRATCH = "INPUT", "OUTPUT", "SCRATCH"


@dataclass
class Slot:
    """One array of a program.

    Attributes
    ----------
    role : str
        `INPUT`, `OUTPUT` or `SCRATCH`.
    value : ndarray
        What an input is, what an output must be, a scratch's shape and dtype.
    view_of : int
        The slot whose data this is under another shape; -1 for a slot with data of its own.
    """

    role: str
    value: np.ndarray[Any, Any]
    view_of: int = -1


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

    def add(self, role: str, value: np.ndarray[Any, Any], view_of: int = -1) -> int:
        """Add an array and return the number of its slot."""
        self.slots.append(Slot(role, np.asarray(value, order="C"), view_of))
        return len(self.slots) - 1


def tables(programs: Sequence[Program], *, expected: bool = True) -> tuple[str, bytes]:
    """Return the C source of the tables (``programs.h``) and what the arrays hold.

    Parameters
    ----------
    programs : sequence of Program
    expected : bool
        Whether to put in what outputs must be, beside what inputs are.
    """
    lines = ['#include "programs.h"']
    blob = bytearray()
    kernels = sorted({kernel for program in programs for kernel, _ in program.calls})
    lines += [f"extern Kernel __tvm_ffi_{kernel};" for kernel in kernels]
    for number, program in enumerate(programs):
        lines.append(f"static const Array arrays{number}[] = {{")
        for slot in program.slots:
            lines.append(_array(slot, len(blob)))
            given = slot.role == INPUT or (expected and slot.role == OUTPUT)
            if given and slot.view_of < 0:
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
    shape = ", ".join(map(str, value.shape)) or "1"
    code, bits = TYPE_CODES[value.dtype.kind], 8 * value.dtype.itemsize
    numbers = f"{code}, {bits}, {value.ndim}, {{{shape}}}, {value.nbytes}u, {offset}u"
    return f"  {{{slot.role}, {numbers}, {slot.view_of}}},"

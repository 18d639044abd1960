# SPDX-License-Identifier: Apache-2.0
"""What the lines of an image mean: one verdict for each program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.emulated.image import symbol_at
from xnortvm.emulation.program import Program
from xnortvm.emulation.run import writer

#: Of the exceptions of an x86 CPU those that a kernel can cause.
EXCEPTIONS = {0: "division", 6: "unknown instruction", 13: "misaligned access", 14: "page fault"}


@dataclass
class Verdict:
    """How a program went.

    Attributes
    ----------
    ok : bool
    text : str
        The number of instructions, or every complaint.
    """

    ok: bool
    text: str


def read(lines: Sequence[str], programs: Sequence[Program], folder: Path) -> list[Verdict]:
    """Return a verdict for each program; what the image did not get to is not ok."""
    verdicts = [Verdict(False, "") for _ in programs]
    said = ""
    for line in lines:
        word, *rest = line.split()
        if word == "said":
            said = line
        if word not in _READERS or not rest:
            continue
        index, *numbers = (int(number) for number in rest)
        verdict, text = verdicts[index], _READERS[word](programs[index], numbers, folder)
        verdict.ok = word == "ok"
        verdict.text = "; ".join(filter(None, (verdict.text, text, said)))
        said = ""
    for verdict in verdicts:
        verdict.text = verdict.text or "did not finish"
    return verdicts


def _ok(program: Program, numbers: Sequence[int], folder: Path) -> str:
    return f"{numbers[0]} instructions"


def _wrong(program: Program, numbers: Sequence[int], folder: Path) -> str:
    slot, count, first, got, wanted = numbers
    value = program.slots[slot].value
    unsigned = np.dtype(f"u{value.itemsize}")
    found, expected = (np.array(bits, unsigned).view(value.dtype).item() for bits in (got, wanted))
    at = tuple(int(i) for i in np.unravel_index(first, value.shape))
    return (
        f"{count} of {value.size} elements of {writer(program, slot)} are wrong, "
        f"the first at {at}: {found} instead of {expected}"
    )


def _stray(program: Program, numbers: Sequence[int], folder: Path) -> str:
    return f"something was written beside {writer(program, numbers[0])}"


def _error(program: Program, numbers: Sequence[int], folder: Path) -> str:
    return f"{program.calls[numbers[0]][0]} returned an error"


def _exception(program: Program, numbers: Sequence[int], folder: Path) -> str:
    number, address, touched = numbers
    name = EXCEPTIONS.get(number, f"exception {number}")
    return f"{name} in {symbol_at(address, folder)} (page fault address {touched:#x})"


def _full(program: Program, numbers: Sequence[int], folder: Path) -> str:
    return "the arrays do not fit the emulated memory"


_READERS = {
    "ok": _ok,
    "wrong": _wrong,
    "stray": _stray,
    "error": _error,
    "exception": _exception,
    "full": _full,
}

# SPDX-License-Identifier: Apache-2.0
"""What LLVM made of a kernel: its loops, what they compute, and what they do besides.

Read from assembly text, so that code for any CPU can be looked at on any machine, and the same
compiler gives the same numbers everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple


class Instruction(NamedTuple):
    """One line: the mnemonic and the rest."""

    mnemonic: str
    operands: str


@dataclass(frozen=True)
class Loop:
    """Instructions ``first`` … ``last``, which ends with the branch back.

    Attributes
    ----------
    innermost : bool
        Whether no other loop lies inside.
    """

    first: int
    last: int
    innermost: bool


class Work(NamedTuple):
    """What an instruction computes in one bit of its vectors, if the mnemonic matches.

    Attributes
    ----------
    mnemonic : str
        Regular expression for the whole of it.
    per_bit : float
        Multiply-accumulates, or values, for each bit of the widest register among its operands.
    """

    mnemonic: str
    per_bit: float


#: By kind of kernel. A byte popcount is two table look-ups for each vector, and four bits looked up
#: in a row of popcounts are one, so that a look-up is half a bit of work for each bit.
WORK: dict[str, tuple[Work, ...]] = {
    "binary": (Work(r"vpopcnt[bdwq]|cnt", 1.0), Work(r"v?pshufb", 0.5)),
    "float": (Work(r"vfn?madd\d+ps|fmla|mulps|vdpbf16ps|vpdpbusds?|fmadd", 1 / 32),),
    "pack": (
        Work(r"v?movmskps", 1 / 32),
        Work(r"v?packsswb", 1 / 16),
        Work(r"vcmp\w*ps|vpmovd2m|vpcmp\w*d", 1 / 32),
        Work(r"v?fcm[lg][te]|addhn2?|usra|sshl|ushl", 1 / 32),
    ),
    "pool": (Work(r"v?maxps|fmax|fmaxnm", 1 / 32),),
}


@dataclass(frozen=True)
class Counts:
    """Figures of one kernel; fewer is better, except for `work`.

    Attributes
    ----------
    work : int
        What one pass through all working loops computes.
    working : int
        Instructions of the innermost loops that do the work.
    spills : int
        Accesses to the stack among them.
    around : int
        Instructions of all other loops.
    size : int
        All instructions.
    """

    work: int
    working: int
    spills: int
    around: int
    size: int

    @property
    def cost(self) -> float:
        """Instructions of the working loops for 1024 multiply-accumulates (or values)."""
        return 1024 * self.working / self.work if self.work else float(self.around)


_LABEL = re.compile(r"^([\w.$]+):")
_LINE = re.compile(r"^\s+([a-z][\w.]*)\s*(.*)")
_JUMP = re.compile(r"^(j[a-z]+|b(\.[a-z]+)?|cbn?z|tbn?z)$")
_STACK = re.compile(r"\(%[er]sp|\(%[er]bp\)|\[sp\b")
_FRAME = re.compile(r"\[x29\b")  # where x29 is not a register like any other


def functions(assembly: str) -> dict[str, tuple[list[Instruction], dict[str, int]]]:
    """Return the instructions of every function, and where its labels point.

    Parameters
    ----------
    assembly : str
        As LLVM prints it, for x86 (AT&T) or AArch64.
    """
    found: dict[str, tuple[list[Instruction], dict[str, int]]] = {}
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in assembly.splitlines():
        label = _LABEL.match(line)
        if label and not label[1].startswith((".L", "L", "$")):
            code, labels = [], {}
            found[label[1]] = code, labels
        elif label:
            labels[label[1]] = len(code)
        elif (match := _LINE.match(line)) and not match[1].startswith("."):
            code.append(Instruction(match[1], match[2].split("#")[0].split("//")[0].strip()))
    return found


def loops(code: list[Instruction], labels: dict[str, int]) -> list[Loop]:
    """Return the loops of a function: jumps backwards, one for each place they jump to."""
    ends: dict[int, int] = {}
    for index, instruction in enumerate(code):
        if _JUMP.match(instruction.mnemonic):
            target = labels.get(instruction.operands.split(",")[-1].strip())
            if target is not None and target <= index:
                ends[target] = max(index, ends.get(target, 0))
    spans = sorted(ends.items())

    def innermost(first: int, last: int) -> bool:
        return not any(
            first <= begin and end <= last and (begin, end) != (first, last) for begin, end in spans
        )

    return [Loop(first, last, innermost(first, last)) for first, last in spans]


def count(assembly: str, kind: str) -> Counts:
    """Count the instructions of a kernel.

    Parameters
    ----------
    assembly : str
        Of a module with one kernel, which lies in ``…_compute_`` where TVM wraps it.
    kind : str
        Key of `WORK`.
    """
    work = working = spills = around = size = 0.0
    for name, (code, labels) in functions(assembly).items():
        if "_compute_" not in name:
            continue  # checks of arguments, entries of the runtime
        size += len(code)
        stack = [_STACK, _FRAME] if _has_frame(code) else [_STACK]
        inner: set[int] = set()
        inside: set[int] = set()
        for loop in loops(code, labels):
            body = range(loop.first, loop.last + 1)
            inside.update(body)
            done = sum(_work(code[index], kind) for index in body)
            if loop.innermost and done:
                inner.update(body)
                work += done
                spills += sum(
                    any(place.search(code[index].operands) for place in stack) for index in body
                )
        working += len(inner)
        around += len(inside - inner)
    return Counts(round(work), round(working), round(spills), round(around), round(size))


def _has_frame(code: list[Instruction]) -> bool:
    """Return whether x29 points into the stack of an AArch64 function."""
    return any(
        each.mnemonic in ("mov", "add") and re.match(r"x29, sp\b", each.operands) for each in code
    )


def _work(instruction: Instruction, kind: str) -> float:
    for row in WORK[kind]:
        if re.fullmatch(row.mnemonic, instruction.mnemonic):
            return row.per_bit * _bits(instruction.operands)
    return 0.0


def _bits(operands: str) -> int:
    """Return the width of the widest vector register among the operands."""
    for pattern, bits in ((r"%zmm", 512), (r"%ymm", 256), (r"%xmm|\bv\d+\.|\bq\d", 128)):
        if re.search(pattern, operands):
            return bits
    return 0

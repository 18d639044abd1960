# SPDX-License-Identifier: Apache-2.0
"""Machine code of kernels: nvcc and cuobjdump, where they are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cuda.emulator import cuda_target, device_source, lower_all


def _find(name: str) -> str | None:
    """Return a tool on the search path, in CUDA's folder or in NVIDIA's Python packages."""
    beside = [Path("/usr/local/cuda/bin"), *sorted(Path("/usr/local").glob("cuda-*/bin"))]
    beside += [Path(folder, "nvidia/cu13/bin") for folder in sys.path]
    found = [str(folder / name) for folder in beside if (folder / name).is_file()]
    return shutil.which(name) or next(iter(found), None)


needs_disassembler = pytest.mark.skipif(
    _find("nvcc") is None or _find("cuobjdump") is None,
    reason="needs nvcc and cuobjdump (pip install nvidia-cuda-cuobjdump)",
)

_INSTRUCTION = re.compile(
    r"^\s+/\*([0-9a-f]{4,6})\*/\s+(?:@!?U?P[0-9T]+ )?([A-Z][A-Z0-9_.]+)([^;]*);", re.MULTILINE
)
_KERNEL = re.compile(r"^\s+Function : (\S+)$", re.MULTILINE)
_USE = re.compile(r"^.*Compiling entry function '(\S+)' for.*$", re.MULTILINE)

#: What no kernel has: functions (ptxas also writes a jump to the next instruction as CALL, so the
#: way back tells), registers in memory, and multiplication of bytes.
FOREIGN = ("RET", "LDL", "STL", "IMMA")


class Instruction(NamedTuple):
    """Where it lies, its name with all suffixes, and its operands."""

    address: int
    name: str
    operands: str


@dataclass(frozen=True)
class Code:
    """The machine code of one kernel, and what ptxas says of its registers and spills."""

    instructions: Sequence[Instruction]
    said: str

    @property
    def registers(self) -> int:
        """Registers of a thread."""
        return int(re.findall(r"Used (\d+) registers", self.said)[0])

    def count(self, name: str, suffix: str = "") -> int:
        """Return how many instructions have a name, or begin with it up to a dot."""
        return count(self.instructions, name, suffix)

    def loop_with(self, *names: str) -> Sequence[Instruction]:
        """Return the smallest loop that has all of some instructions."""
        loops = sorted(self._loops(), key=len)
        return next(loop for loop in loops if all(count(loop, name) for name in names))

    def _loops(self) -> list[Sequence[Instruction]]:
        """Return the bodies of loops: what lies before a jump back."""
        found = []
        for number, (address, name, operands) in enumerate(self.instructions):
            targets = re.findall(r"0x([0-9a-f]+)", operands) if name.startswith("BRA") else []
            # The endless loop behind the last instruction jumps to itself.
            if targets and (first := int(targets[-1], 16)) < address:
                body = self.instructions[: number + 1]
                found.append([each for each in body if each.address >= first])
        return found

    @property
    def foreign(self) -> dict[str, int]:
        """How many there are of what no kernel has."""
        return {name: self.count(name) for name in FOREIGN}

    def check(self) -> None:
        """Check what holds for every kernel: no calls, no spills, no products of bytes."""
        assert self.foreign == dict.fromkeys(FOREIGN, 0)
        assert " 0 bytes spill stores, 0 bytes spill loads" in self.said


def count(instructions: Sequence[Instruction], name: str, suffix: str = "") -> int:
    """Return how many instructions have a name, or begin with it up to a dot; and have a suffix."""
    return sum(
        f"{each.name}.".startswith(f"{name}.") and f"{suffix}." in f"{each.name}."
        for each in instructions
    )


def code_of(func: Any, arch: str) -> Code:
    """Return the machine code of a scheduled PrimFunc of one kernel."""
    (code,) = codes_of({"main": func}, arch).values()
    return code


def codes_of(funcs: Mapping[str, Any], arch: str) -> dict[str, Code]:
    """Return the machine code of the kernels of scheduled PrimFuncs, compiled together.

    Kernels of ``name`` are ``name_kernel``, ``name_kernel_1`` ….
    """
    target = cuda_target(arch)
    _, device = lower_all(funcs, target)
    return disassembled(device_source(device, target), arch)


def disassembled(source: str, arch: str) -> dict[str, Code]:
    """Return the machine code of the kernels of CUDA source."""
    nvcc, cuobjdump = _find("nvcc"), _find("cuobjdump")
    assert nvcc is not None
    assert cuobjdump is not None
    number = arch.removeprefix("sm_")
    with tempfile.TemporaryDirectory() as folder:
        code, cubin = Path(folder, "k.cu"), Path(folder, "k.cubin")
        code.write_text(source)
        generate = f"-gencode=arch=compute_{number},code=sm_{number}"
        command = [nvcc, "-cubin", generate, "-O3", "-Xptxas=-v", "-w", "-o", str(cubin), str(code)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        dump = subprocess.run(
            [cuobjdump, "--dump-sass", str(cubin)], capture_output=True, text=True, check=True
        )
    assert "C75" not in done.stderr, done.stderr  # wgmma one after the other
    said = _sections(_USE, done.stderr)
    return {
        name: Code(
            [
                Instruction(int(address, 16), mnemonic, operands.strip())
                for address, mnemonic, operands in _INSTRUCTION.findall(text)
            ],
            said[name],
        )
        for name, text in _sections(_KERNEL, dump.stdout).items()
    }


def _sections(heading: re.Pattern[str], text: str) -> dict[str, str]:
    """Return what follows each heading, by its name."""
    _, *parts = heading.split(text)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def disassemble(source: str, arch: str) -> tuple[list[str], str]:
    """Return the names of a kernel's instructions in order, and what ptxas says."""
    (code,) = disassembled(source, arch).values()
    return [instruction.name for instruction in code.instructions], code.said

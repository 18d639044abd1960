# SPDX-License-Identifier: Apache-2.0
"""``make test-avx512``: run AVX-512 kernels on emulated CPUs and compare every bit."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.emulated import bochs
from tests.emulated.cases import programs
from tests.emulated.image import make_image
from tests.emulated.networks import ORACLE
from tests.emulated.verdict import Verdict, read
from xnortvm.target import resolve


class Cpu(NamedTuple):
    """A target, the emulator's CPU that runs it, and what its kernels must consist of."""

    mcpu: str
    model: str
    isa: str
    instructions: str


CPUS = {
    "icelake": Cpu("icelake-server", "corei7_icelake_u", "avx512vpopcntdq", r"vpopcntd\s.*zmm"),
    "znver4": Cpu("znver4", "tigerlake", "avx512vpopcntdq", r"vpopcntd\s.*zmm"),
    "x86-64-v4": Cpu("x86-64-v4", "corei7_skylake_x", "avx512bw", r"vpmaddubsw\s.*zmm"),
}

# Bochs 2.7 refuses gathers and scatters whose index is in zmm16 to zmm31, which CPUs do not.
WITHOUT = "-mattr=+prefer-no-gather,+prefer-no-scatter"

#: The emulator takes seconds; this is for the case that an image hangs.
LIMIT_S = 600.0


def run(name: str) -> bool:
    """Run everything on one CPU, print a line for each kernel, return whether all is well."""
    cpu, start = CPUS[name], time.monotonic()
    target = resolve(f"llvm -mcpu={cpu.mcpu} {WITHOUT}")
    assert target.isa == cpu.isa, target
    listed, library = programs(target)
    with tempfile.TemporaryDirectory(prefix="xnortvm-emulated-") as scratch:
        folder = Path(scratch)
        make_image(listed, library, folder)
        if not _contains(folder / "kernels.o", cpu.instructions):
            print(f"{name}: the kernels do not use {cpu.instructions}")
            return False
        built = time.monotonic()
        verdicts = read(bochs.boot(folder, cpu.model, LIMIT_S), listed, folder)
    first, *rest = verdicts
    for program, verdict in zip(listed[1:], rest, strict=True):
        print(f"{name}: {program.name}: {_word(verdict)}: {verdict.text}")
    if first.ok or not first.text.startswith("1 of "):
        print(f"{name}: a wrong expectation went unnoticed: {first.text}")
        return False
    failed = sum(not verdict.ok for verdict in rest)
    end = time.monotonic()
    print(
        f"{name}: {len(rest) - failed} programs right, {failed} not; "
        f"built in {built - start:.0f} s, emulated in {end - built:.0f} s"
    )
    return not failed


def _word(verdict: Verdict) -> str:
    return "ok" if verdict.ok else "FAILED"


def _contains(path: Path, pattern: str) -> bool:
    shown = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    return re.search(pattern, shown.stdout) is not None


def main(arguments: list[str] | None = None) -> int:
    """Return 0 when everything is right, or when there is no emulator."""
    parser = argparse.ArgumentParser(prog="make test-avx512", description=__doc__)
    parser.add_argument("cpu", nargs="*", help=f"which: {', '.join(CPUS)}; all by default")
    names = parser.parse_args(arguments).cpu or list(CPUS)
    unknown = [name for name in names if name not in CPUS]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}; choose from {', '.join(CPUS)}")
    missing = bochs.missing()
    if not resolve(ORACLE).is_host:
        missing = "this machine cannot run AVX2 code, which a network is compared with"
    if missing:
        print(f"skipped: {missing}")
        return 0
    results = [run(name) for name in names]
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())

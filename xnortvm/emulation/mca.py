# SPDX-License-Identifier: Apache-2.0
"""Cycles of straight code by LLVM's scheduling models (llvm-mca), and its disassembly."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence

from xnortvm.emulation import needs
from xnortvm.errors import CompileError

Words = tuple[str, ...]

#: Every block is modelled as the body of a loop that runs so often.
ITERATIONS = 100

#: What is modelled quickly: blocks of at least so many instructions, with these two numbers of
#: iterations. All but the first few take the same time, so that `ITERATIONS` follow from two runs.
LONG, FEW = 64, (4, 12)

_TRIPLE = "aarch64-linux-gnu"


def disassemble(blocks: Sequence[Words]) -> list[list[str]]:
    """Return the instructions of every block as assembly, one string each.

    Raises
    ------
    MissingDependencyError
        When LLVM is not installed.
    CompileError
        When it does not know an instruction.
    """
    words = list(dict.fromkeys(word for block in blocks for word in block))
    data = "\n".join(_bytes(word) for word in words) + "\n"
    command = [needs.find_models().mc, "--disassemble", f"-triple={_TRIPLE}", "-mattr=+all"]
    done = subprocess.run(command, input=data, capture_output=True, text=True, check=False)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    lines = [line for line in lines if line and not line.startswith(".")]
    if len(lines) != len(words):
        raise CompileError(
            f"llvm-mc read {len(lines)} of {len(words)} instructions: "
            + (done.stderr.strip().splitlines() or ["no message"])[0]
        )
    known = dict(zip(words, lines, strict=True))
    return [[known[word] for word in block] for block in blocks]


def _bytes(word: str) -> str:
    return " ".join(f"0x{byte:02x}" for byte in reversed(bytes.fromhex(word)))


def cycles(blocks: Iterable[Words], mcpu: str, *, quick: bool = False) -> dict[Words, float]:
    """Return how many cycles a core takes for each block when it is repeated.

    Every access hits the first cache and every branch is predicted. What was modelled once is
    kept in the user's cache.

    Parameters
    ----------
    blocks : iterable of tuple of str
        Instruction words.
    mcpu : str
        The core, by LLVM's name.
    quick : bool
        Long blocks are repeated less often: a fifth of the time, within 0.1 %.
    """
    wanted = list(dict.fromkeys(blocks))
    store = _Store(f"{mcpu}-quick" if quick else mcpu)
    new = [block for block in wanted if _key(block) not in store.known]
    if new:
        find = model_quickly if quick else model
        for block, taken in zip(new, find(disassemble(new), mcpu), strict=True):
            store.known[_key(block)] = taken
        store.keep()
    return {block: store.known[_key(block)] for block in wanted}


def model_quickly(bodies: Sequence[Sequence[str]], mcpu: str) -> list[float]:
    """Return nearly what `model` returns, for long bodies from few iterations."""
    few, more = FEW
    short = [body for body in bodies if len(body) < LONG]
    long = [body for body in bodies if len(body) >= LONG]
    exact = iter(model(short, mcpu) if short else [])
    after_few, after_more = (iter(model(long, mcpu, n) if long else []) for n in FEW)

    def extrapolated() -> float:
        begin, end = few * next(after_few), more * next(after_more)
        return (end + (ITERATIONS - more) * (end - begin) / (more - few)) / ITERATIONS

    return [next(exact) if len(body) < LONG else extrapolated() for body in bodies]


def model(bodies: Sequence[Sequence[str]], mcpu: str, iterations: int = ITERATIONS) -> list[float]:
    """Return the cycles of one iteration of each loop body, of so many.

    Raises
    ------
    CompileError
        When llvm-mca refuses; says the first thing it said.

    Examples
    --------
    >>> model([["eor v0.16b, v1.16b, v2.16b"]], "cortex-a72")  # doctest: +SKIP
    [0.52]
    """
    text = []
    for number, body in enumerate(bodies):
        text += [f"# LLVM-MCA-BEGIN b{number}", *body, f"# LLVM-MCA-END b{number}"]
    command = [
        needs.find_models().mca,
        f"-mtriple={_TRIPLE}",
        f"-mcpu={mcpu}",
        f"-iterations={iterations}",
        "-instruction-info=false",
        "-resource-pressure=false",
        "-skip-unsupported-instructions=any",
        "-call-latency=1",
    ]
    data = "\n".join(text) + "\n"
    done = subprocess.run(command, input=data, capture_output=True, text=True, check=False)
    found = {
        int(number): int(total) / iterations
        for number, total in re.findall(
            r"Code Region - b(\d+)\s+Iterations:\s+\d+\s+Instructions:\s+\d+\s+"
            r"Total Cycles:\s+(\d+)",
            done.stdout,
        )
    }
    if len(found) != len(bodies):
        said = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise CompileError(
            f"llvm-mca modelled {len(found)} of {len(bodies)} blocks for {mcpu}: {said[0]}"
        )
    return [found[number] for number in range(len(bodies))]


def _key(block: Words) -> str:
    return hashlib.sha256(" ".join(block).encode()).hexdigest()[:24]


class _Store:
    """What was modelled before, for one core and one release of LLVM."""

    def __init__(self, mcpu: str) -> None:
        version = needs.find_models().version
        self.path = needs.cache_folder() / f"mca-{version}-{mcpu}.json"
        self.known: dict[str, float] = self._read()

    def _read(self) -> dict[str, float]:
        try:
            return dict(json.loads(self.path.read_text()))
        except (OSError, ValueError):
            return {}

    def keep(self) -> None:
        """Write it, beside what others wrote meanwhile; where nothing can be kept, go on."""
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False) as file:
                json.dump({**self._read(), **self.known}, file)
            os.replace(file.name, self.path)

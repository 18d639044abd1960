# SPDX-License-Identifier: Apache-2.0
"""How fast each instruction is here, and whether it did its work.

python3 -m parts.ceilings BUNDLE RESULT.json cores|mma|wgmma|memory
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from xnortvm.runtime.cuda_device import CudaError, Driver, MissingKernelError, Pointer

from . import expected
from .result import SkipPart, write

FATBIN = "ceilings.fatbin"
THREADS = 256
_BLOCKS_PER_SM = 8
_EMPTY_LAUNCHES, _GRAPH_LAUNCHES = 1000, 100
_COLD, _WARM = 2 << 30, 8 << 20
_PATTERN = 0x01020304

Check = Callable[[Sequence[int], int], list[int]]


class Row(NamedTuple):
    """One microbenchmark.

    Attributes
    ----------
    unit : str
        What is counted.
    work : int
        How many of them one loop of one warp does; of four warps where `wgmma`.
    loops : int
    results : callable
        From source and loops to the results of the first threads; they repeat.
    wgmma : int
        Columns of a wgmma; 0 of others.
    other : callable or None
        Results of another reading of the documentation.
    """

    unit: str
    work: int
    loops: int
    results: Check
    wgmma: int = 0
    other: Check | None = None


def _mma(k: int, dot: expected.Dot, rows: int = 16) -> Row:
    results = partial(expected.mma, dot=dot, rows=rows)
    return Row("op", 8 * 2 * rows * 8 * k, 4096, results)


def _wgmma(n: int, k: int, dot: expected.Dot) -> Row:
    results = partial(expected.wgmma, dot=dot, columns=n)
    other = partial(expected.wgmma, dot=dot, columns=n, swapped=True)
    return Row("op", 4 * 2 * 64 * n * k, 2048, results, n, other)


#: Kernel → what it does. "op" are multiplications and additions, "instruction" those of one lane.
ROWS: dict[str, Row] = {
    "popc": Row("instruction", 32 * 8, 2048, expected.popc),
    "lop3": Row("instruction", 32 * 8, 4096, expected.lop3),
    "iadd3": Row("instruction", 32 * 8, 4096, expected.iadd3),
    "xnor_popc": Row("op", 32 * 32 * 32 * 2, 1024, expected.xnor_popc),
    "xnor_csa7": Row("op", 32 * 28 * 32 * 2, 1024, expected.xnor_csa7),
    "mma_b1_xor_8x8x128": _mma(128, expected.bits_xor, 8),
    "mma_b1_and_8x8x128": _mma(128, expected.bits_and, 8),
    "mma_b1_xor_16x8x256": _mma(256, expected.bits_xor),
    "mma_b1_and_16x8x256": _mma(256, expected.bits_and),
    "mma_s8_16x8x32": _mma(32, expected.bytes_dot),
    "mma_f16_16x8x16": _mma(16, expected.halves_dot),
    "wgmma_b1_64x64x256": _wgmma(64, 256, expected.bits_and),
    "wgmma_b1_64x128x256": _wgmma(128, 256, expected.bits_and),
    "wgmma_b1_64x256x256": _wgmma(256, 256, expected.bits_and),
    "wgmma_s8_64x256x32": _wgmma(256, 32, expected.bytes_dot),
    "wgmma_f16_64x256x16": _wgmma(256, 16, expected.halves_dot),
}


class Bench:
    """The device, the kernels, and what every kernel is given."""

    def __init__(self, fatbin: bytes) -> None:
        self.driver = Driver()
        self.chip = self.driver.describe()
        self.module = self.driver.module(fatbin)
        self.words = expected.random_words()
        self.source = self.driver.allocate(4 * len(self.words))
        self.stamps, self.loops = self.driver.allocate(32), self.driver.allocate(4)
        self.driver.upload(self.source, self.words)

    def ceiling(self, name: str, row: Row) -> dict[str, Any]:
        """Measure one instruction and compare what it computed."""
        blocks = self.chip["sms"] * (1 if row.wgmma else _BLOCKS_PER_SM)
        shared = (128 + row.wgmma) * 128 if row.wgmma else 0
        function = self.driver.function(self.module, name, shared)
        out = self.driver.allocate(4 * blocks * THREADS)
        self.driver.fill(out, 0x5A5A5A5A, blocks * THREADS)
        arguments = self._arguments(self.source, out, row.loops)
        seconds = self.driver.seconds(
            lambda: self.driver.launch(function, blocks, THREADS, arguments, shared)
        )
        got = self.driver.download(out, blocks * THREADS)
        self.driver.free(out)
        warps = blocks * THREADS // (128 if row.wgmma else 32)
        rate, clock = warps * row.loops * row.work / seconds, self._clock()
        return {
            "unit": f"{row.unit}/s",
            "rate": rate,
            "per_clock_and_sm": rate / clock / self.chip["sms"] if clock else None,
            "hertz": clock,
            "seconds": seconds,
            **compared(got, self.words, row),
        }

    def _arguments(self, source: Pointer, out: Pointer, loops: int) -> list[Pointer]:
        self.driver.upload(self.loops, [loops])
        return [source, out, self.stamps, self.loops]

    def _clock(self) -> float | None:
        """Return the cycles a second of the last launch."""
        first, start, last, end = self.driver.download(self.stamps, 4, "Q")
        return (last - first) / (end - start) * 1e9 if end > start else None

    def reading(self, size: int, loops: int) -> dict[str, Any]:
        """Measure reading `size` bytes again and again."""
        words = size // 4
        function = self.driver.function(self.module, "read")
        data, out = self.driver.allocate(size), self.driver.allocate(8)
        self.driver.fill(data, _PATTERN, words)
        arguments = self._arguments(data, out, loops)
        blocks = self.chip["sms"] * _BLOCKS_PER_SM

        def work() -> None:
            self.driver.launch(function, blocks, THREADS, arguments)

        self.driver.upload(out, [words, 0])
        work()
        self.driver.wait()
        right = self.driver.download(out, 2)[1] == words * loops * _PATTERN & 0xFFFFFFFF
        seconds = self.driver.seconds(work)
        for pointer in (data, out):
            self.driver.free(pointer)
        return {
            "unit": "byte/s",
            "rate": size * loops / seconds,
            "seconds": seconds,
            "bytes": size,
            "checked": right,
            **({} if right else {"why": "the sum of what was read is wrong"}),
        }

    def copying(self, size: int) -> dict[str, Any]:
        """Measure copying half of `size` bytes to the other half; both directions count."""
        words = size // 8
        function = self.driver.function(self.module, "copy")
        data, out = self.driver.allocate(size), self.driver.allocate(8)
        self.driver.fill(data, 0, 2 * words)
        self.driver.fill(data, _PATTERN, words)
        self.driver.upload(out, [words, 0])
        arguments = self._arguments(data, out, 1)
        blocks = self.chip["sms"] * _BLOCKS_PER_SM
        seconds = self.driver.seconds(
            lambda: self.driver.launch(function, blocks, THREADS, arguments)
        )
        last = self.driver.download(Pointer(data.value + size - 4096), 1024)
        for pointer in (data, out):
            self.driver.free(pointer)
        right = last == [_PATTERN] * 1024
        return {
            "unit": "byte/s",
            "rate": size / seconds,
            "seconds": seconds,
            "bytes": size,
            "checked": right,
            **({} if right else {"why": "the end of the copy is not what was copied"}),
        }

    def launching(self, *, graph: bool) -> dict[str, Any]:
        """Measure what starting a kernel that does nothing costs."""
        function = self.driver.function(self.module, "empty")
        count = _GRAPH_LAUNCHES if graph else _EMPTY_LAUNCHES

        def work() -> None:
            for _ in range(count):
                self.driver.launch(function, 1, 32)

        seconds = self.driver.seconds(self.driver.graph(work) if graph else work)
        return {"unit": "s", "rate": seconds / count, "checked": True}


def compared(got: Sequence[int], words: Sequence[int], row: Row) -> dict[str, Any]:
    """Say whether the results are right, and if not, what is known about it."""
    if _repeats(got, row.results(words, row.loops)):
        return {"checked": True}
    if row.other is not None and _repeats(got, row.other(words, row.loops)):
        return {"checked": False, "why": "the two strides of the descriptor mean the other thing"}
    return {"checked": False, "why": "the results are not those of the documented instruction"}


def _repeats(got: Sequence[int], one: Sequence[int]) -> bool:
    return len(got) % len(one) == 0 and list(got) == list(one) * (len(got) // len(one))


def measure(bundle: Path, group: str) -> dict[str, Any]:
    """Return the ceilings of a group; a row that fails says why and does not stop the others.

    A kernel that faults spoils the context: what comes after it in its group says so too.
    """
    if not (bundle / FATBIN).is_file():
        raise SkipPart("the bundle holds no microbenchmarks; its manifest says why under left_out")
    bench = Bench((bundle / FATBIN).read_bytes())
    if group == "memory":
        cold = min(_COLD, bench.chip["free_bytes"] // 4) // 65536 * 65536
        jobs: dict[str, Callable[[], dict[str, Any]]] = {
            "read_memory": partial(bench.reading, cold, 1),
            "read_l2": partial(bench.reading, min(_WARM, bench.chip["l2_bytes"] // 4), 64),
            "copy_memory": partial(bench.copying, cold),
            "launch": partial(bench.launching, graph=False),
            "launch_in_graph": partial(bench.launching, graph=True),
        }
    else:
        jobs = {
            name: partial(bench.ceiling, name, row)
            for name, row in ROWS.items()
            if group_of(name) == group
        }
    return {"rows": {name: _tried(job) for name, job in jobs.items()}}


def group_of(name: str) -> str:
    """Return the group that a kernel of `ROWS` is measured in."""
    first = name.split("_")[0]
    return first if first in ("mma", "wgmma") else "cores"


def _tried(job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return job()
    except MissingKernelError as error:
        return {"skipped": str(error)}
    except CudaError as error:
        return {"error": str(error)}


def main() -> int:
    """Run as a command."""
    return write(Path(sys.argv[2]), lambda: measure(Path(sys.argv[1]), sys.argv[3]))


if __name__ == "__main__":
    sys.exit(main())

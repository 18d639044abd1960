# SPDX-License-Identifier: Apache-2.0
"""Results of timing: of whole runs (`BenchmarkResult`) and of kernels (`Profile`)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from xnortvm.errors import InputError
from xnortvm.runtime.interface import Kernel

_MIN_RUNS, _MAX_RUNS, _SECONDS = 10, 500, 1.0


@dataclass(frozen=True)
class BenchmarkResult:
    """Times of whole calls, conversion and checking of the inputs included.

    Attributes
    ----------
    median_ms, min_ms, mean_ms : float
        Milliseconds per call.
    runs : int
        How many calls were timed.
    num_threads : int
        Threads that the model was compiled for.
    """

    median_ms: float
    min_ms: float
    mean_ms: float
    runs: int
    num_threads: int

    @classmethod
    def of(cls, times_ms: Sequence[float], num_threads: int) -> BenchmarkResult:
        """Summarise single times in milliseconds."""
        return cls(
            statistics.median(times_ms),
            min(times_ms),
            statistics.fmean(times_ms),
            len(times_ms),
            num_threads,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def __str__(self) -> str:
        threads = "1 thread" if self.num_threads == 1 else f"{self.num_threads} threads"
        return (
            f"{self.median_ms:.3f} ms (milliseconds) per call: median of {self.runs} calls on "
            f"{threads}; fastest {self.min_ms:.3f} ms, mean {self.mean_ms:.3f} ms"
        )


def time_calls(
    call: Callable[[], Any], *, repeats: int | None, warmup: int, num_threads: int
) -> BenchmarkResult:
    """Time a function.

    Parameters
    ----------
    call : callable
        What is timed.
    repeats : int, optional
        Number of timed calls; by default as many as take about one second, 10 to 500.
    warmup : int
        Calls before, which are not counted.
    num_threads : int
        Only passed on to the result.

    Raises
    ------
    InputError
        When `repeats` is below 1 or `warmup` below 0.
    """
    if (repeats is not None and repeats < 1) or warmup < 0:
        raise InputError(
            f"a benchmark needs repeats of at least 1 and warmup of at least 0, "
            f"got repeats={repeats} and warmup={warmup}"
        )
    clock = time.perf_counter_ns
    for _ in range(warmup):
        call()
    times: list[float] = []
    end = clock() + int(_SECONDS * 1e9)
    while True:
        start = clock()
        call()
        now = clock()
        times.append((now - start) / 1e6)
        count = len(times)
        if count == (repeats or _MAX_RUNS):
            break
        if repeats is None and now > end and count >= _MIN_RUNS:
            break
    return BenchmarkResult.of(times, num_threads)


@dataclass(frozen=True)
class ProfileRow:
    """One kernel in a profile.

    Attributes
    ----------
    kernel : str
        Symbol in the library.
    layers : tuple of str
        Layers of the user's model that it computes.
    schedule : str
        Rule or record that scheduled it.
    calls : int
        Calls in one run of the model.
    median_us : float
        Microseconds in one run of the model, all calls together; medians over the runs.
    share : float
        Part of the time of all kernels, 0 to 1.
    """

    kernel: str
    layers: tuple[str, ...]
    schedule: str
    calls: int
    median_us: float
    share: float


@dataclass(frozen=True)
class Profile:
    """Where the time of a run goes.

    Attributes
    ----------
    rows : tuple of ProfileRow
        Slowest first.
    total_us : float
        Microseconds of all kernels in one run.
    runs : int
        Runs that were timed.
    """

    rows: tuple[ProfileRow, ...]
    total_us: float
    runs: int

    @classmethod
    def of(
        cls, sites: Sequence[tuple[str, Sequence[float]]], kernels: Mapping[str, Kernel]
    ) -> Profile:
        """Add up the times of call sites, in microseconds, by kernel."""
        medians: dict[str, list[float]] = {}
        for name, times in sites:
            medians.setdefault(name, []).append(statistics.median(times))
        total = sum(sum(each) for each in medians.values())
        rows = [
            ProfileRow(
                name,
                kernels.get(name, Kernel()).layers,
                kernels.get(name, Kernel()).schedule,
                len(each),
                sum(each),
                sum(each) / total if total else 0.0,
            )
            for name, each in medians.items()
        ]
        rows.sort(key=lambda row: (-row.median_us, row.kernel))
        return cls(tuple(rows), total, len(sites[0][1]) if sites else 0)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def __str__(self) -> str:
        head = ("kernel", "layers", "schedule", "calls", "µs (microseconds)", "share %")
        table = [head]
        table += [
            (
                row.kernel,
                _short(row.layers),
                row.schedule or "-",
                str(row.calls),
                f"{row.median_us:.1f}",
                f"{100 * row.share:.1f}",
            )
            for row in self.rows
        ]
        table.append(("all kernels", "", "", "", f"{self.total_us:.1f}", "100.0"))
        widths = [max(len(line[i]) for line in table) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in table
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        lines.append(f"Medians of {self.runs} runs.")
        return "\n".join(lines)


def _short(layers: tuple[str, ...]) -> str:
    if not layers:
        return "-"
    more = f" +{len(layers) - 2}" if len(layers) > 2 else ""
    return ", ".join(layers[:2]) + more

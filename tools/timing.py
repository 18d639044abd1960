# SPDX-License-Identifier: Apache-2.0
"""Fair timing of several contestants on a machine that is never quite idle."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

_ROUNDS = 10
_SECONDS = 1.5  # per contestant, where the number of runs is left open
_MIN_RUNS, _MAX_RUNS = 20, 2000


@dataclass(frozen=True)
class Times:
    """Milliseconds of single calls, summarised."""

    median_ms: float
    min_ms: float
    mean_ms: float
    runs: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def race(
    contestants: Mapping[str, Callable[[], Any]], repeats: int | None = None
) -> dict[str, Times]:
    """Time contestants in turns, so that a slow spell of the machine hits all of them.

    Parameters
    ----------
    contestants : mapping of str to callable
        What is timed.
    repeats : int, optional
        Timed calls of each; by default as many as take about 1.5 seconds, 20 to 2000.

    Returns
    -------
    dict of str to Times
        In the same order.
    """
    counts = {name: repeats or _calls_for(call) for name, call in contestants.items()}
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(_ROUNDS):
        for name, call in contestants.items():
            # Spread the calls over the rounds; all of them happen, whatever the count.
            done, due = len(samples[name]), counts[name] * (turn + 1) // _ROUNDS
            if due > done:
                call()  # what ran in between has the caches; its cost is not this contestant's
            for _ in range(due - done):
                start = time.perf_counter_ns()
                call()
                samples[name].append((time.perf_counter_ns() - start) / 1e6)
    return {
        name: Times(statistics.median(times), min(times), statistics.fmean(times), len(times))
        for name, times in samples.items()
    }


def _calls_for(call: Callable[[], Any]) -> int:
    call()
    start = time.perf_counter()
    for _ in range(3):
        call()
    seconds = max((time.perf_counter() - start) / 3, 1e-7)
    return min(max(int(_SECONDS / seconds), _MIN_RUNS), _MAX_RUNS)


@contextmanager
def pinned(num_threads: int) -> Iterator[int | None]:
    """Keep this process on one core while a single thread is timed.

    Yields
    ------
    int or None
        The core; None where nothing was pinned.
    """
    if num_threads != 1 or not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    core = max(before)  # interrupts tend to be served by the first
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, before)

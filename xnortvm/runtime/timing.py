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

#: Something that can be timed: runs once to warm up, then n times; returns their milliseconds.
Sampler = Callable[[int], list[float]]

_ROUNDS = 10
# Per contestant, where the number of runs is left open: about 1.5 seconds and at least 20 runs,
# but at most 10 seconds.
_SECONDS, _MOST_SECONDS = 1.5, 10.0
_FEWEST, _MIN_RUNS, _MAX_RUNS = 3, 20, 2000


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


def sampler(call: Callable[[], Any]) -> Sampler:
    """Return a function of this process as something that can be timed."""

    def sample(count: int) -> list[float]:
        call()  # what ran in between has the caches; its cost is not this contestant's
        times = []
        for _ in range(count):
            start = time.perf_counter_ns()
            call()
            times.append((time.perf_counter_ns() - start) / 1e6)
        return times

    return sample


def race(contestants: Mapping[str, Sampler], repeats: int | None = None) -> dict[str, Times]:
    """Time contestants in turns, so that a slow spell of the machine hits all of them.

    Parameters
    ----------
    contestants : mapping of str to Sampler
        What is timed.
    repeats : int, optional
        Timed calls of each; by default as many as take about 1.5 seconds, 20 to 2000, and fewer,
        at least 3, where 20 take longer than 10 seconds.

    Returns
    -------
    dict of str to Times
        In the same order.
    """
    counts = {name: repeats or _calls_for(sample) for name, sample in contestants.items()}
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(_ROUNDS):
        for name, sample in contestants.items():
            # Spread the calls over the rounds; all of them happen, whatever the count.
            due = counts[name] * (turn + 1) // _ROUNDS - len(samples[name])
            if due:
                samples[name] += sample(due)
    return {
        name: Times(statistics.median(times), min(times), statistics.fmean(times), len(times))
        for name, times in samples.items()
    }


def _calls_for(sample: Sampler) -> int:
    seconds = max(sample(1)[0] / 1e3, 1e-7)
    if seconds < _SECONDS / _MIN_RUNS:
        seconds = max(statistics.fmean(sample(3)) / 1e3, 1e-7)
    wanted = min(max(int(_SECONDS / seconds), _MIN_RUNS), _MAX_RUNS)
    return max(min(wanted, int(_MOST_SECONDS / seconds)), _FEWEST)


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

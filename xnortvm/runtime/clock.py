# SPDX-License-Identifier: Apache-2.0
"""Time kernels of TVM's runtime: in CUDA graphs with events on a GPU, by the wall on a CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from xnortvm.runtime.cuda_device import CudaError, Driver

#: Work of about this long is timed at once, so that a launch's cost does not count.
_SECONDS, _MOST = 2e-3, 200


class Timed(NamedTuple):
    """A median, and how it was taken: ``"graph"``, ``"events"`` or ``"wall"``."""

    seconds: float
    how: str


class Wall:
    """The clock of the CPU."""

    def time(self, call: Callable[[], Any]) -> Timed:
        """Return the median time of a call."""
        call()
        times = []
        for _ in range(7):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return Timed(statistics.median(times), "wall")


class Events:
    """The clock of the GPU. TVM and the driver share the device's primary context."""

    def __init__(self) -> None:
        self.driver = Driver()

    def time(self, call: Callable[[], Any]) -> Timed:
        """Return the median time of a call that launches kernels and waits for nothing."""
        with self._stream():
            call()
            self.driver.wait()
            count = self._count(call)
        work, how = self.recorded(call, count)
        return Timed(self.driver.seconds(work) / count, how)

    def recorded(self, call: Callable[[], Any], count: int) -> tuple[Callable[[], None], str]:
        """Return what makes a call so many times, and whether as a graph or by itself.

        Parameters
        ----------
        call : callable
            It was called before: the first call loads kernels, which cannot be recorded.
        """

        def many() -> None:
            with self._stream():
                for _ in range(count):
                    call()

        try:
            return self.driver.graph(many), "graph"
        except CudaError:  # a call that allocates or waits cannot be recorded
            return many, "events"

    def _count(self, call: Callable[[], Any]) -> int:
        start = time.perf_counter()
        call()
        self.driver.wait()
        return max(1, min(_MOST, int(_SECONDS / (time.perf_counter() - start))))

    @contextmanager
    def _stream(self) -> Iterator[None]:
        import tvm_ffi

        with tvm_ffi.use_raw_stream(tvm_ffi.device("cuda:0"), self.driver.stream):
            yield


def clock_for(arch: str) -> Wall | Events:
    """Return the clock for models of an architecture."""
    return Wall() if arch == "cpu" else Events()

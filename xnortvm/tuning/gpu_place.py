# SPDX-License-Identifier: Apache-2.0
"""The GPU of this machine as a place where candidates run; needs no compiler.

A sample is a CUDA graph of as many launches as fill it, timed by events: what a launch costs the
CPU does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from xnortvm._tvm_runtime import runtime, tvm
from xnortvm.runtime import cuda_driver
from xnortvm.runtime.clock import Events
from xnortvm.tuning import timing


class Gpu(timing.Sending):
    """The first GPU; the arguments of the last task stay on it."""

    def __init__(self) -> None:
        super().__init__()
        cuda_driver.load_for_running("candidates run on a GPU")
        self._clock = Events()

    def load(self, path: Path) -> Any:
        """Return a library as a module."""
        return runtime.load_module(str(path))

    def device(self) -> Any:
        """Return the GPU."""
        return tvm.cuda(0)

    def use_threads(self, count: int) -> None:
        """Leave the CPU as it is."""

    def timer(self, library: Any, tensors: Sequence[Any]) -> timing.Timer:
        """Return what times graphs of launches; a graph of each size is recorded once."""
        function = library[timing.KERNEL]

        @cache
        def recorded(number: int) -> Callable[[], None]:
            return self._clock.recorded(lambda: function(*tensors), number)[0]

        def seconds(number: int, repeat: int) -> list[float]:
            return [each / number for each in self._clock.driver.times(recorded(number), repeat)]

        return seconds

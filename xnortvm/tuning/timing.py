# SPDX-License-Identifier: Apache-2.0
"""Run and time built candidates, in this process or in a session of a board."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xnortvm.tuning import arguments
from xnortvm.tuning.arguments import Spec

#: The function of a candidate's library.
KERNEL = "kernel"
#: Seconds of a timed sample: less than the time slices of the operating system, so that most
#: samples run without interruption. Samples of one measurement and of one turn of a comparison.
_SAMPLE_SECONDS, _SAMPLES, _TURN_SAMPLES = 3e-4, 60, 8
#: A measurement whose median is so much above its lower quartile is taken again, so often at most.
_NOISY, _RETAKEN = 0.1, 2

#: From calls in a sample and samples to the seconds of a call in each sample.
Timer = Callable[[int, int], list[float]]


class NonsenseError(Exception):
    """A clock that cannot be right."""


class Place(ABC):
    """Where candidates run."""

    @abstractmethod
    def load(self, path: Path) -> Any:
        """Return a library as a module."""

    @abstractmethod
    def tensors(self, path: Path) -> tuple[list[Any], list[Spec]]:
        """Return the arguments that a file holds, and the types of the outputs."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return a tensor of zeros."""

    @abstractmethod
    def device(self) -> Any:
        """Return the device on which kernels run."""

    def timer(self, library: Any, tensors: Sequence[Any]) -> Timer:
        """Return what times calls of a kernel, which has been called before."""

        def seconds(number: int, repeat: int) -> list[float]:
            evaluate = library.time_evaluator(KERNEL, self.device(), number=number, repeat=repeat)
            return list(map(float, evaluate(*tensors).results))

        return seconds

    @abstractmethod
    def use_threads(self, count: int) -> None:
        """Let kernels use so many threads."""


class Here(Place):
    """This process."""

    def load(self, path: Path) -> Any:
        """Return a library as a module."""
        from xnortvm._tvm_runtime import runtime

        return runtime.load_module(str(path))

    def tensors(self, path: Path) -> tuple[list[Any], list[Spec]]:
        """Return the arguments that a file holds."""
        from xnortvm._tvm_runtime import runtime

        made, outputs = arguments.read(path)
        return [runtime.tensor(each) for each in made], outputs

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return a tensor of zeros."""
        import numpy as np

        from xnortvm._tvm_runtime import runtime

        return runtime.tensor(np.zeros(shape, dtype))

    def device(self) -> Any:
        """Return the CPU."""
        from xnortvm._tvm_runtime import tvm

        return tvm.cpu()

    def use_threads(self, count: int) -> None:
        """Set up TVM's pool."""
        from xnortvm.runtime.threads import use_threads

        use_threads(count)


class Sending(Place):
    """A place with memory of its own: arguments are sent once and stay until the next task."""

    def __init__(self) -> None:
        self._sent: dict[Path, tuple[list[Any], list[Spec]]] = {}

    def tensors(self, path: Path) -> tuple[list[Any], list[Spec]]:
        """Send the arguments that a file holds, once; those of another task are dropped."""
        from xnortvm._tvm_runtime import runtime

        if path not in self._sent:
            if any(known.parent != path.parent for known in self._sent):
                self._sent.clear()
            made, outputs = arguments.read(path)
            self._sent[path] = [runtime.tensor(each, self.device()) for each in made], outputs
        return self._sent[path]

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return a tensor of zeros there."""
        import numpy as np

        from xnortvm._tvm_runtime import runtime

        return runtime.tensor(np.zeros(shape, dtype), self.device())


class Loaded:
    """A built candidate, ready to run.

    Parameters
    ----------
    folder : Path
        That `worker.build` made.
    place : Place
    threads : int
    """

    def __init__(self, folder: Path, place: Place, threads: int) -> None:
        place.use_threads(threads)
        tensors, outputs = place.tensors(arguments.file_of(folder))
        library = place.load(folder / "kernel.so")
        self.outputs = [place.empty(*each) for each in outputs]
        library[KERNEL](*tensors, *self.outputs)
        self._timer = place.timer(library, [*tensors, *self.outputs])
        self.number = 1

    def digest(self) -> str:
        """Return a name for the bytes of the outputs of the first run."""
        found = hashlib.sha256()
        for output in self.outputs:
            found.update(output.numpy().tobytes())
        return found.hexdigest()

    def prepare(self) -> Loaded:
        """Find out how many calls a sample takes."""
        self.number = max(1, int(_SAMPLE_SECONDS / self._seconds(1, 3)[0]))
        return self

    def _seconds(self, number: int, repeat: int) -> list[float]:
        found = sorted(self._timer(number, repeat))
        for each in found:
            if not 0.0 < each < float("inf"):
                raise NonsenseError(f"it says that a call took {each:g} s")
        return found

    def sample(self, count: int) -> list[float]:
        """Return the microseconds of one call, from so many samples, sorted."""
        return [seconds * 1e6 for seconds in self._seconds(self.number, count)]


def measure(folder: Path, place: Place, threads: int) -> dict[str, Any]:
    """Time one candidate alone; the lower quartile and the distance to it of the median."""
    loaded = Loaded(folder, place, threads).prepare()
    digest = loaded.digest()
    loaded.sample(3)
    us, noise = _quarter(loaded.sample(_SAMPLES))
    for _ in range(_RETAKEN):
        if noise > _NOISY:
            us, noise = min((us, noise), _quarter(loaded.sample(_SAMPLES)), key=lambda it: it[1])
    return {"us": us, "noise": noise, "digest": digest}


def _quarter(times: list[float]) -> tuple[float, float]:
    """Return the lower quartile of sorted times, and the distance to it of the median."""
    quarter, half = times[len(times) // 4], times[len(times) // 2]
    return quarter, (half - quarter) / quarter


def race(folders: Sequence[Path], place: Place, threads: int, turns: int) -> dict[str, Any]:
    """Time candidates in turns, so that a slow spell of the machine hits all of them."""
    runners = [Loaded(folder, place, threads).prepare() for folder in folders]
    times: list[list[float]] = [[] for _ in runners]
    for _ in range(turns):
        for runner, found in zip(runners, times, strict=True):
            runner.sample(1)  # what ran in between has the caches
            found.append(runner.sample(_TURN_SAMPLES)[_TURN_SAMPLES // 4])
    return {"turns": times, "digests": [runner.digest() for runner in runners]}

# SPDX-License-Identifier: Apache-2.0
"""Who measures built candidates: what every runner promises, and the runner for this machine.

A candidate is a folder made by `xnortvm.tuning.worker.build`: ``kernel.so``, which holds the
function `KERNEL`, and ``arguments``, the name of the file beside the folder with what it is called
with. The search knows runners only by the methods below.
"""

from __future__ import annotations

import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from xnortvm.errors import TargetError, XnortvmError
from xnortvm.runtime.link import find_linker
from xnortvm.tuning.pool import MODULE, Worker

if TYPE_CHECKING:
    from xnortvm.target import Target


#: The kind of a failure that may be the board's: the next search asks again.
DOUBTFUL = "doubtful"


class RuleError(XnortvmError, RuntimeError):
    """The rule's own kernel does not run, so that candidates have nothing to be compared with."""


class RunnerLostError(XnortvmError, RuntimeError):
    """Nothing is left to measure on; what was measured stays."""


@dataclass(frozen=True)
class Measured:
    """What a runner found out about one candidate.

    Attributes
    ----------
    us : float or None
        Microseconds of one call, or another cost in that unit; None when the candidate failed.
    noise : float
        Median distance from the median, as a part of it.
    digest, expected : str
        Of the outputs of this candidate and of the rule's kernel at the same place.
    failure : str
        ``"kind: message"``, such as ``"timeout: no answer within 30 s"``.
    where : str
        The machine that measured.
    alone : bool
        Whether no other board was there to confirm outputs that are not the rule's.
    """

    us: float | None = None
    noise: float = 0.0
    digest: str = ""
    expected: str = ""
    failure: str = ""
    where: str = ""
    alone: bool = False

    def checked(self) -> Measured:
        """Return the measurement, as a failure if its time or its outputs cannot be right."""
        if self.failure:
            return self
        if not 0.0 < (self.us or 0.0) < float("inf"):
            return Measured(failure=f"nonsense: one call took {self.us} µs", where=self.where)
        if self.digest == self.expected:
            return self
        why = "its outputs are not those of the rule's kernel"
        kind = f"{DOUBTFUL}: on the only board" if self.alone else "wrong:"
        return Measured(failure=f"{kind} {why}", where=self.where)


@dataclass(frozen=True)
class Race:
    """Candidates timed in turns at one place.

    Attributes
    ----------
    turns : list of list of float
        For each candidate its microseconds in each turn.
    digests : list of str
        Of their outputs.
    failure, where : str
        As those of `Measured`.
    """

    turns: list[list[float]] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    failure: str = ""
    where: str = ""


class Runner(ABC):
    """Measures candidates; a context manager that ends what it started.

    Attributes
    ----------
    build : str
        How `xnortvm.tuning.worker` builds a candidate for it.
    unit : str
        What its figures are, "" for microseconds that passed; of records. Set by `check`.
    exact : bool
        Whether its figures are the same every time, so that the best need not be compared again.
    """

    build = "build"
    unit = ""
    exact = False

    @property
    def parallel(self) -> int:
        """How many candidates it measures at the same time."""
        return 1

    @abstractmethod
    def check(self, target: Target) -> None:
        """Refuse a target whose code cannot be measured, before anything is compiled.

        Raises
        ------
        TargetError, BoardError
        """

    @abstractmethod
    def measure(self, rule: Path, batch: Sequence[Path]) -> Iterator[tuple[Path, Measured]]:
        """Yield each candidate with its measurement, as soon as there is one, in any order.

        Parameters
        ----------
        rule : Path
            The rule's kernel of the same task, whose outputs candidates must give.
        batch : sequence of Path

        Raises
        ------
        RuleError
            When the rule's kernel does not run.
        RunnerLostError
            When nothing is left to measure on.
        """

    @abstractmethod
    def race(self, folders: Sequence[Path], turns: int) -> Race:
        """Time candidates of one task in turns, all at one place."""

    def close(self) -> None:
        """End what was started."""
        return

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LocalRunner(Runner):
    """One process on this machine, pinned to a core for one thread.

    Parameters
    ----------
    threads : int
    timeout : float
        Seconds for one candidate.
    module : str
        The Python module of the process.
    place : str
        Where kernels run, of `xnortvm.tuning.worker.PLACES`.
    """

    def __init__(
        self, threads: int, timeout: float = 30.0, module: str = MODULE, *, place: str = "here"
    ) -> None:
        # The last core for one thread: interrupts tend to be served by the first.
        cores = [max(os.sched_getaffinity(0))] if threads == 1 else []
        self._worker = Worker(cores, module)
        self._asked = {"threads": threads, "place": place}
        self._timeout = timeout
        self._where = cpu_name()
        self._expected: dict[Path, str] = {}

    def check(self, target: Target) -> None:
        """Refuse what this machine cannot run, and a machine that cannot link."""
        if not target.is_host:
            raise TargetError(
                f"code for {target.name} cannot be timed here, this machine cannot run it; tune on "
                "such a machine and copy its records, name boards of that kind with --rpc, or, for "
                "AArch64, have it modelled with --runner model"
            )
        find_linker()

    def measure(self, rule: Path, batch: Sequence[Path]) -> Iterator[tuple[Path, Measured]]:
        """Time one after the other."""
        if rule not in self._expected:
            found = self.time(rule)
            if found.failure:
                raise RuleError(found.failure)
            self._expected[rule] = found.digest
        for each in batch:
            yield each, self.time(each, self._expected[rule])

    def time(self, folder: Path, expected: str = "") -> Measured:
        """Time what was built in one folder."""
        message = {"command": "measure", "folder": str(folder), **self._asked}
        answer = self._worker.ask(message, self._timeout, tries=2)
        return Measured(**answer, expected=expected, where=self._where)

    def race(self, folders: Sequence[Path], turns: int) -> Race:
        """Time candidates in turns."""
        message = {
            "command": "race",
            "folders": [str(each) for each in folders],
            "turns": turns,
            **self._asked,
        }
        return Race(**self._worker.ask(message, self._timeout * 2, tries=2), where=self._where)

    def close(self) -> None:
        """End the process."""
        self._worker.close()


def cpu_name() -> str:
    """Return the name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

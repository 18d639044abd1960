# SPDX-License-Identifier: Apache-2.0
"""The runner for boards behind TVM's RPC tracker: all that are free measure at the same time.

Each board has a thread here and a process that talks to it (`xnortvm.tuning.board`). All take
candidates from one list, and what a board did not finish goes back to it:

* A board that is lost or hangs is asked for again; if it does not come back in time, it is dropped.
  The candidate is tried once more, elsewhere where there is another board; when that fails as well,
  or no board is left, it is the candidate that failed.
* A board whose clock or whose repeated outputs make no sense is dropped and not used again.
* A candidate with wrong outputs is tried on another board, if there is one. If they are right
  there, the first board is dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from xnortvm.errors import BoardError, TargetError
from xnortvm.runtime import tracker as trackers
from xnortvm.runtime.cross_link import find_cross_linkers
from xnortvm.runtime.cuda_compiler import find_cuda_compiler
from xnortvm.runtime.link import find_linker
from xnortvm.runtime.tracker import Tracker
from xnortvm.target import Target
from xnortvm.tuning.pool import Worker
from xnortvm.tuning.runner import Measured, Race, RuleError, Runner, RunnerLostError

_log = logging.getLogger("xnortvm.tuning")

_MODULE = "xnortvm.tuning.board"
_Answer = dict[str, Any]

#: How often a candidate is tried where it or its board failed.
_TRIES = 2
#: A session lasts so many time-outs of a candidate: a board ends it then, whatever runs there.
_SESSION = 4
#: Seconds beyond the end of a session after which a board that did not come back is lost.
_PATIENCE = 20.0
_CONNECT_SECONDS = 15.0
#: Until the tracker is asked again when it gave a board that is not used any more.
_REFUSED_SECONDS = 1.0
#: Kinds of failures that are the board's, or may be: what was running is tried again.
_GONE = frozenset({"lost", "timeout", "crash"})


@dataclass(eq=False)
class _Job:
    """A question to any board.

    Attributes
    ----------
    message : dict
    timeout : float
    lost : list of str
        Why it was not answered, each time that it was tried.
    tried : set of _Slot
        The boards on which it was.
    wrong_on : _Slot or None
        The board that computed other outputs than those of the rule.
    """

    message: dict[str, Any]
    timeout: float
    lost: list[str] = field(default_factory=list)
    tried: set[_Slot] = field(default_factory=set)
    wrong_on: _Slot | None = None


@dataclass(eq=False)
class _Slot:
    """A board in use: its process, and the thread that asks it.

    Attributes
    ----------
    address : str
        Of the board; "" before there was a session.
    until : float
        When the session is too old for another question.
    lost : str
        Why the last session ended early; "" when it did not.
    dropped : str
        Why it is not used any more.
    """

    worker: Worker
    address: str = ""
    until: float = 0.0
    lost: str = ""
    dropped: str = ""
    thread: threading.Thread | None = None


class BoardRunner(Runner):
    """Measures on boards.

    Parameters
    ----------
    tracker : Tracker
    threads : int
        That kernels use.
    timeout : float
        Seconds for one candidate, with what is sent.
    patience : float, optional
        Seconds in which a lost board has to come back.
    """

    def __init__(
        self, tracker: Tracker, threads: int, timeout: float = 30.0, patience: float | None = None
    ) -> None:
        self._tracker, self._threads, self._timeout = tracker, threads, timeout
        self._session = timeout * _SESSION
        self._patience = self._session + _PATIENCE if patience is None else patience
        self._slots: list[_Slot] = []
        self._refused: set[str] = set()
        self._todo: deque[_Job] = deque()
        self._changed = threading.Condition()
        # A board that is not used any more puts None after its last answer.
        self._answers: SimpleQueue[tuple[_Job, _Answer, str] | BaseException | None] = SimpleQueue()
        self._ended = 0
        self._closed = False
        self._kind, self._triple = "llvm", ""

    @property
    def parallel(self) -> int:
        """How many boards there are."""
        return max(1, len(self._alive()))

    def check(self, target: Target) -> None:
        """Look that there are boards, and what makes libraries for them."""
        if target.kind == "cuda":
            find_cuda_compiler()
        if target.link is None:
            find_linker()
        else:
            find_cross_linkers(target.link)
        self._kind, self._triple = target.kind, target.triple
        found = trackers.boards(self._tracker)
        _log.info("%d boards %s: %s", len(found.addresses), self._tracker.key, found.addresses)

    def measure(self, rule: Path, batch: Sequence[Path]) -> Iterator[tuple[Path, Measured]]:
        """Time candidates on all boards at the same time."""
        jobs = {
            _Job(
                {
                    "command": "measure",
                    "rule": str(rule),
                    "folder": str(each),
                    "threads": self._threads,
                },
                self._timeout,
            ): each
            for each in batch
        }
        for job, answer, where in self._answered(list(jobs)):
            kind, _, why = answer.get("failure", "").partition(": ")
            if kind == "rule":
                raise RuleError(why)
            yield jobs[job], Measured(**answer, where=where)

    def race(self, folders: Sequence[Path], turns: int) -> Race:
        """Time candidates in turns on one board."""
        message = {
            "command": "race",
            "folders": [str(each) for each in folders],
            "threads": self._threads,
            "turns": turns,
        }
        ((_, answer, where),) = self._answered([_Job(message, self._timeout * 2)])
        return Race(**answer, where=where)

    def close(self) -> None:
        """Give the boards back and end the processes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for slot in self._slots:
            while slot.thread is not None and slot.thread.is_alive():
                slot.worker.kill()  # what it waits for is answered as a crash
                slot.thread.join(0.1)

    def _answered(self, jobs: list[_Job]) -> Iterator[tuple[_Job, _Answer, str]]:
        """Yield the answers to jobs as they come."""
        self._grow()
        left = set(jobs)
        with self._changed:
            self._todo.extend(jobs)
            self._changed.notify_all()
        try:
            while left:
                found = self._answers.get()
                if isinstance(found, BaseException):
                    raise found
                if found is None:
                    self._ended += 1
                    if self._ended == len(self._slots):
                        yield from self._unanswered(left)
                elif found[0] in left:
                    left.remove(found[0])
                    yield found
        finally:
            with self._changed:
                self._todo.clear()

    def _unanswered(self, jobs: set[_Job]) -> Iterator[tuple[_Job, _Answer, str]]:
        """No board is left: what the last was lost with has failed, the rest was not tried."""
        for job in jobs:
            if job.lost:
                yield job, {"failure": job.lost[-1]}, self._tracker.key
        raise RunnerLostError(f"no board {self._tracker.key!r} is left")

    def _alive(self) -> list[_Slot]:
        return [slot for slot in self._slots if not slot.dropped]

    def _grow(self) -> None:
        """Take boards that are free: at the start all, later those that joined or came back."""
        alive = self._alive()
        try:
            found = trackers.boards(self._tracker)
        except BoardError as error:
            if not alive:
                raise RunnerLostError(f"no board {self._tracker.key!r} is left: {error}") from error
            return
        free = found.free - len(self._refused.intersection(found.addresses))
        free -= sum(time.monotonic() > slot.until for slot in alive)  # they take of the same
        for _ in range(max(free, 0 if alive else 1)):
            slot = _Slot(Worker(module=_MODULE))
            slot.thread = threading.Thread(target=self._serve, args=(slot,), daemon=True)
            self._slots.append(slot)
            slot.thread.start()

    def _serve(self, slot: _Slot) -> None:
        """Answer jobs by one board until it is dropped or there are no more."""
        try:
            while not (self._closed or slot.dropped):
                if time.monotonic() > slot.until and not self._connect(slot):
                    return
                job = self._take(slot)
                if job is not None:
                    self._judge(slot, job, slot.worker.ask(job.message, job.timeout))
        except BaseException as error:
            self._answers.put(error)
        finally:
            slot.dropped = slot.dropped or "the search is over"
            slot.worker.close()
            with self._changed:
                self._changed.notify_all()
            self._answers.put(None)

    def _connect(self, slot: _Slot) -> bool:
        """Take a board that is not refused; say whether there is one."""
        message = {
            "command": "connect",
            **self._tracker._asdict(),
            "wait": self._patience,
            "seconds": self._session,
            "kind": self._kind,
        }
        end = time.monotonic() + self._patience
        while not self._closed:
            now = time.monotonic()
            answer = slot.worker.ask(message, self._patience + _CONNECT_SECONDS)
            if "failure" in answer:
                if not slot.lost:
                    slot.address = ""  # that board may serve somebody else now
                kind, _, why = answer["failure"].partition(": ")
                if kind == "foreign":
                    self._answers.put(_no_gpu(self._tracker.key, why))
                self._drop(slot, why)
                return False
            if slot.lost and answer["address"] != slot.address:
                self._say_lost(slot, slot.lost, len(self._alive()))
            slot.address, slot.lost = answer["address"], ""
            if slot.address not in self._refused:
                slot.until = now + self._session - 2 * self._timeout
                return True
            if now > end:
                slot.dropped = "only refused boards are free"
                return False
            time.sleep(_REFUSED_SECONDS)
        return False

    def _take(self, slot: _Slot) -> _Job | None:
        """Wait for a job that this board may do; None when its session has to be renewed first."""
        with self._changed:
            while not (self._closed or slot.dropped):
                alive = set(self._alive())
                for job in self._todo:
                    if slot in job.tried and alive - job.tried:
                        continue  # another board has not tried it
                    if time.monotonic() > slot.until:
                        return None
                    self._todo.remove(job)
                    job.tried.add(slot)
                    return job
                self._changed.wait()
        return None

    def _judge(self, slot: _Slot, job: _Job, answer: _Answer) -> None:
        """Decide whether that is the answer, whose fault it is, and who tries again."""
        kind, _, why = answer.get("failure", "").partition(": ")
        others = [each for each in self._alive() if each is not slot]
        if kind == "nonsense":
            self._refuse(slot, why)
            self._again(job)
        elif kind == "foreign":
            self._answers.put(
                TargetError(
                    f"the board {self._name(slot)} cannot load a library for {self._triple} "
                    f"({why}); give the --target that the board is"
                )
            )
        elif kind in _GONE:
            slot.until, slot.lost = 0.0, why  # its session is over
            while_ran = f"lost: the board {self._name(slot)} was lost while it ran ({why})"
            job.lost.append(answer["failure"] if kind == "timeout" else while_ran)
            if len(job.lost) < _TRIES:
                self._again(job)
            else:
                self._answers.put((job, {"failure": job.lost[-1]}, self._name(slot)))
        elif self._is_doubtful(answer) and others and job.wrong_on is None:
            job.wrong_on = slot
            self._again(job)
        else:
            if job.wrong_on not in (None, slot) and not self._is_doubtful(answer):
                self._refuse(job.wrong_on, "another board computes what it does not")
            alone = {"alone": True} if not others and job.wrong_on is None else {}
            self._answers.put((job, {**answer, **alone}, self._name(slot)))

    def _is_doubtful(self, answer: _Answer) -> bool:
        """Whether another board is asked as well: the rule does not run, or outputs are wrong."""
        is_wrong = answer.get("digest") != answer.get("expected")
        return is_wrong or str(answer.get("failure", "")).startswith("rule: ")

    def _again(self, job: _Job) -> None:
        with self._changed:
            self._todo.append(job)
            self._changed.notify_all()

    def _refuse(self, slot: _Slot | None, why: str) -> None:
        if slot is not None:
            self._refused.add(slot.address)
            self._drop(slot, why)

    def _drop(self, slot: _Slot, why: str) -> None:
        if self._closed or slot.dropped:
            return
        slot.dropped = why
        with self._changed:
            self._changed.notify_all()
        self._say_lost(slot, why, len(self._alive()))

    def _say_lost(self, slot: _Slot, why: str, left: int) -> None:
        _log.warning("the board %s is dropped: %s; %d left", self._name(slot), why, left)

    def _name(self, slot: _Slot) -> str:
        return f"{self._tracker.key} at {slot.address or self._tracker}"


def _no_gpu(key: str, why: str) -> TargetError:
    return TargetError(
        f"the board {key!r} cannot run code for a GPU: {why}; its server needs an NVIDIA driver "
        "and CUDA 13's runtime library (pip install nvidia-cuda-runtime)"
    )

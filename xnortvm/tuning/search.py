# SPDX-License-Identifier: Apache-2.0
"""The tuning loop: which task next, build a batch, measure it, record it; then the winners."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from xnortvm.errors import CompileError, OutputError
from xnortvm.schedules.decisions import AnyDecisions
from xnortvm.schedules.isa import isa_of
from xnortvm.target import Target
from xnortvm.tuning.nearest import neighbours, worth_trying
from xnortvm.tuning.pool import MODULE, Pool
from xnortvm.tuning.propose import propose
from xnortvm.tuning.records import Machine, Record, Records
from xnortvm.tuning.runner import (
    DOUBTFUL,
    LocalRunner,
    Measured,
    Race,
    RuleError,
    Runner,
    RunnerLostError,
    cpu_name,
)
from xnortvm.tuning.space import Space, space_of, task_to_bytes
from xnortvm.tuning.summary import Summary, TaskRow
from xnortvm.tuning.task import Task
from xnortvm.tuning.winner import FINALISTS, TURNS, winner
from xnortvm.tuning.work import work_of

#: Candidates of one step.
BATCH = 8
#: What has to fit on the disk where candidates are built, if one that failed is to be blamed.
_SPACE = 1 << 20

_log = logging.getLogger("xnortvm.tuning")


@dataclass(frozen=True)
class Options:
    """How to search; see `xnortvm.tune`."""

    trials: int = 64
    time_limit: float | None = None
    seed: int = 0
    strategy: str = "xgboost"
    builders: int = 0
    timeout: float = 30.0
    worker: str = MODULE


@dataclass
class State:
    """What is known of one task.

    Attributes
    ----------
    measured : dict
        From decisions to their record.
    early : list of AnyDecisions
        What is worth measuring first: that of the nearest records.
    new : int
        Measurements of this run.
    done : bool
        Whether it gets no more, because the rule's own kernel does not run.
    """

    task: Task
    space: Space
    folder: Path
    measured: dict[AnyDecisions, Record]
    early: list[AnyDecisions] = field(default_factory=list)
    new: int = 0
    done: bool = False
    built: set[AnyDecisions] = field(default_factory=set)

    @property
    def times(self) -> dict[AnyDecisions, float | None]:
        """Microseconds of what was measured, None where it failed."""
        return {each: record.us for each, record in self.measured.items()}

    @property
    def best_us(self) -> float | None:
        """The best time so far."""
        return min((us for us in self.times.values() if us), default=None)

    def path(self, decisions: AnyDecisions) -> Path:
        """Where a candidate is built."""
        return self.folder / f"c{self.space.legal.index(decisions)}"


class Search:
    """One run over the tasks of a model.

    Parameters
    ----------
    tasks : list of Task
    target : Target
    records : Records
        Known measurements; new ones are appended at once.
    options : Options
    progress : callable
        Called with the search after each step.
    runner : Runner, optional
        Who measures; by default this machine.
    known : Records, optional
        More records, whose decisions are early candidates for kernels alike.
    space : callable
        From a task and a target to its search space.
    """

    def __init__(
        self,
        tasks: list[Task],
        target: Target,
        records: Records,
        options: Options,
        progress: Callable[[Search], None] = lambda _: None,
        runner: Runner | None = None,
        known: Records | None = None,
        space: Callable[[Task, Target], Space | None] = space_of,
    ) -> None:
        self.target, self.records, self.options = target, records, options
        self.states: list[State] = []
        self.summary = Summary(target.name)
        self.started = time.monotonic()
        self._tasks, self._progress, self._space = tasks, progress, space
        self._runner = runner or LocalRunner(target.num_threads, options.timeout, options.worker)
        self._known = known or Records()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def run(self) -> Summary:
        """Search until every task has its trials, the time is over, or Ctrl-C."""
        self.records.check()
        options = self.options
        builders = options.builders or len(os.sched_getaffinity(0))
        with (
            tempfile.TemporaryDirectory(prefix="xnortvm-tune-") as folder,
            Pool(builders, options.worker) as pool,
            self._runner,
        ):
            try:
                self._measure_all(Path(folder), pool)
                for state in self.states:
                    self._choose(state, pool)
            except RunnerLostError as error:
                self.summary.ended = str(error)
                _log.warning("the search ends: %s", error)
        self.summary.unit = self._runner.unit
        self._summarise()
        return self.summary

    def _measure_all(self, folder: Path, pool: Pool) -> None:
        limit = self.options.time_limit
        try:
            self._open(folder)
            while (state := self._next()) is not None:
                if limit is not None and self.elapsed > limit:
                    self.summary.ended = "time limit"
                    return
                self._step(state, pool)
                self._progress(self)
        except KeyboardInterrupt:
            self.summary.ended = "interrupted"
            _log.warning("interrupted: choosing from what was measured; Ctrl-C again to stop")

    def _open(self, folder: Path) -> None:
        best = [*self.records.all_best(self.target), *self._known.all_best(self.target)]
        for number, task in enumerate(self._tasks):
            try:
                space = self._space(task, self.target)
            except CompileError as error:
                _log.warning("%s stays with its rule: %s", task.key, error)
                continue
            if space is None:
                continue
            known = self.records.trials(task.key, self.target, self._runner.unit)
            measured = {
                each: record
                for each, record in known.items()
                if each in space.legal and not record.failure.startswith(DOUBTFUL)
            }
            early = worth_trying(space.legal, neighbours(task.key, best))
            state = State(task, space, folder / str(number), measured, early)
            try:
                state.folder.mkdir()
                (state.folder / "task.json").write_bytes(task_to_bytes(task))
            except OSError as error:
                raise _no_space(folder, str(error)) from error
            self.states.append(state)

    def wanted(self, state: State) -> int:
        """Return how many candidates of a task are measured in the end."""
        return min(self.options.trials, len(state.space.legal))

    def _next(self) -> State | None:
        """Return the task with the most time for each step that it had; None when all are done."""
        left = [
            each for each in self.states if not each.done and len(each.measured) < self.wanted(each)
        ]

        def priority(state: State) -> float:
            if state.best_us is None:
                return float("inf")
            return state.best_us * len(state.task.layers) / (1 + len(state.measured) // BATCH)

        return max(left, key=priority, default=None)

    def _step(self, state: State, pool: Pool) -> None:
        count = min(max(BATCH, self._runner.parallel), self.wanted(state) - len(state.measured))
        batch = propose(
            state.space.legal,
            state.times,
            count,
            isa=isa_of(self.target),
            seed=f"{self.options.seed} {json.dumps(state.task.key.to_json(), sort_keys=True)}",
            strategy=self.options.strategy,
            early=state.early,
        )
        rule = state.space.rule
        failed = self._build(state, pool, [rule, *(each for each in batch if each != rule)])
        if rule in failed:
            self._give_up(state, failed[rule].failure)
            return
        for decisions in batch:
            if decisions in failed:
                self._record(state, decisions, failed[decisions])
        places = {state.path(each): each for each in batch if each not in failed}
        try:
            for place, measured in self._runner.measure(state.path(rule), list(places)):
                self._record(state, places[place], measured.checked())
        except RuleError as error:
            self._give_up(state, str(error))

    def _give_up(self, state: State, why: str) -> None:
        """Leave a task to its rule: there is nothing to compare candidates with."""
        state.done = True
        _log.warning("%s is not tuned: the rule's own kernel failed: %s", state.task.key, why)

    def _record(self, state: State, decisions: AnyDecisions, measured: Measured) -> None:
        record = Record(
            "trial",
            state.task.key,
            Machine.of(self.target),
            decisions,
            us=None if measured.us is None else round(measured.us, 4),
            noise=round(measured.noise, 4),
            failure=measured.failure,
            unit=self._runner.unit,
            where=measured.where,
        )
        self.records.append(record)
        state.measured[decisions] = record
        state.new += 1

    def _build(
        self, state: State, pool: Pool, batch: list[AnyDecisions]
    ) -> dict[AnyDecisions, Measured]:
        """Build what is not built yet; return what failed."""
        missing = [each for each in batch if each not in state.built]
        messages = [
            {
                "command": self._runner.build,
                "task": str(state.folder / "task.json"),
                "target": self.target.name,
                "threads": self.target.num_threads,
                "decisions": decisions.to_json(),
                "folder": str(state.path(decisions)),
            }
            for decisions in missing
        ]
        answers = dict(zip(missing, pool.build(messages, self.options.timeout), strict=True))
        if any("failure" in answer for answer in answers.values()):
            _look_for_space(state.folder.parent)
        state.built |= {each for each, answer in answers.items() if "failure" not in answer}
        return {
            each: Measured(failure=answer["failure"], where=cpu_name())
            for each, answer in answers.items()
            if "failure" in answer
        }

    def _choose(self, state: State, pool: Pool) -> None:
        """Time the best candidates and the rule in turns, and record the winner."""
        good = sorted(
            (each for each, us in state.times.items() if us),
            key=lambda each: state.measured[each].us or 0.0,
        )
        rule = state.space.rule
        if rule not in good or self._is_chosen(state):
            return
        finalists = [rule, *[each for each in good if each != rule][:FINALISTS]]
        if self._runner.exact:
            known = [state.measured[each] for each in finalists]
            race = Race(
                [[each.us or 0.0] for each in known], [""] * len(known), where=known[0].where
            )
            self.records.append(self._winner(state, finalists, race))
            return
        failed = self._build(state, pool, finalists)
        finalists = [each for each in finalists if each not in failed]
        if finalists[:1] != [rule]:
            return
        race = self._runner.race([state.path(each) for each in finalists], TURNS)
        if race.failure:
            _log.warning("%s: comparing the best failed: %s", state.task.key, race.failure)
            return
        self.records.append(self._winner(state, finalists, race))

    def _winner(self, state: State, finalists: list[AnyDecisions], race: Race) -> Record:
        found = winner(race.turns, race.digests)
        return Record(
            "best",
            state.task.key,
            Machine.of(self.target),
            finalists[found.number],
            us=found.us,
            rule_us=found.rule_us,
            noise=found.noise,
            trials=len(state.measured),
            unit=self._runner.unit,
            where=race.where,
        )

    def _is_chosen(self, state: State) -> bool:
        """Whether there is a winner of at least so many candidates already."""
        found = [each.trials for each in self._chosen(state)]
        return max(found, default=-1) >= len(state.measured)

    def _chosen(self, state: State) -> list[Record]:
        """Return the winners of a task by the figures of this runner."""
        records, unit = self.records.of(self.target), self._runner.unit
        return [each for each in records if each.key == state.task.key and each.unit == unit]

    def _summarise(self) -> None:
        for state in self.states:
            task = state.task
            row = TaskRow(str(task.key), task.layers, len(state.space.legal), *work_of(task))
            row.measured, row.new = len(state.measured), state.new
            row.count_failures([r.failure for r in state.measured.values() if r.failure])
            best = float("inf")
            for record in state.measured.values():
                best = min(best, record.us or best)
                row.curve.append(best)
            row.curve = [us for us in row.curve if us < float("inf")]
            chosen = max(self._chosen(state), key=lambda each: (each.gain, each.date), default=None)
            if chosen is not None:
                row.rule_us, row.best_us = chosen.rule_us, chosen.us
                row.decisions = str(chosen.decisions) if chosen.gain > 1.0 else "rule"
            self.summary.rows.append(row)
        self.summary.rows.sort(key=lambda row: -(row.rule_us or 0.0) * len(row.layers))
        self.summary.seconds = round(self.elapsed, 1)


def _look_for_space(folder: Path) -> None:
    """Refuse to go on where the disk is full: LLVM ends the process then without a word."""
    probe = folder / "space"
    try:
        probe.write_bytes(bytes(_SPACE))
        probe.unlink()
    except OSError as error:
        raise _no_space(folder, str(error)) from error


def _no_space(folder: Path, why: str) -> OutputError:
    return OutputError(
        f"candidates cannot be built in {folder} ({why}); free space there, or name another folder "
        "in the variable TMPDIR"
    )

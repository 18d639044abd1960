# SPDX-License-Identifier: Apache-2.0
"""The runner for ARM cores that one does not have: candidates in an emulator, modelled cycles.

A batch of candidates becomes one program, which runs once in an emulated process. Their outputs
must be those of the rule's kernel, bit for bit. A candidate's cycles are what it executed, weighted
by LLVM's scheduling models, with every access in the first cache; how long misses keep a core
waiting is not known. So both ends of what is possible are compared with the rule: no access waits,
and every miss waits alone. What is better at both ends is better wherever between them a board is;
the figure of a candidate is that of the end that gains less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from xnortvm.emulation import needs
from xnortvm.emulation.cores import Core, core_of
from xnortvm.emulation.cost import Cost, costs, waiting
from xnortvm.emulation.program import INPUT, OUTPUT, Program
from xnortvm.emulation.run import Ran, emulate
from xnortvm.errors import CompileError, MissingDependencyError, TargetError
from xnortvm.target import Target
from xnortvm.tuning import arguments
from xnortvm.tuning.runner import Measured, Race, RuleError, Runner
from xnortvm.tuning.worker import symbol_of

#: The clock by which cycles become microseconds.
CLOCK_GHZ = 1.5


class ModelledRunner(Runner):
    """Candidates of an aarch64 core, without one.

    Parameters
    ----------
    target : Target
    timeout : float
        Seconds that the emulator may take for one candidate.

    Attributes
    ----------
    costs : dict of Path to Cost
        Of the candidates that ran.
    """

    build = "build_object"
    exact = True

    def __init__(self, target: Target, timeout: float = 60.0) -> None:
        self._target, self._timeout = target, timeout
        self.costs: dict[Path, Cost] = {}
        self._digests: dict[Path, str] = {}

    def check(self, target: Target) -> None:
        """Refuse what is not modelled, and say what is not installed."""
        if target.isa != "neon" or target.num_threads != 1:
            raise TargetError(
                f"the cost of code for {target.name} with {target.num_threads} threads cannot be "
                "modelled, only that of aarch64 code with one; tune on such a machine"
            )
        self._core()
        lacking = needs.missing_for_costs()
        if lacking:
            raise MissingDependencyError(f"candidates cannot be modelled: {lacking}")
        models = needs.find_models().version
        self.unit = f"modelled cycles at {CLOCK_GHZ} GHz, llvm-mca {models}"

    def _core(self) -> Core:
        return core_of(self._target.mcpu)

    def measure(self, rule: Path, batch: Sequence[Path]) -> Iterator[tuple[Path, Measured]]:
        """Model all candidates in one emulated process."""
        failed = self._model([rule, *batch])
        if rule in failed:
            raise RuleError(failed[rule])
        for each in batch:
            if each in failed:
                yield each, Measured(failure=failed[each], where=self._where)
            else:
                yield (
                    each,
                    Measured(
                        self.figure(each, rule),
                        digest=self._digests[each],
                        expected=self._digests[rule],
                        where=self._where,
                    ),
                )

    def race(self, folders: Sequence[Path], turns: int) -> Race:
        """Compare candidates; a model says the same every time, so there is one turn."""
        failed = self._model(folders)
        if failed:
            return Race(failure=next(iter(failed.values())), where=self._where)
        times = [[self.figure(each, folders[0])] for each in folders]
        return Race(times, [self._digests[each] for each in folders], where=self._where)

    @property
    def _where(self) -> str:
        core = self._core()
        return f"model of {core.mcpu} ({core.board})"

    def figure(self, each: Path, rule: Path) -> float:
        """Return the modelled microseconds of a candidate, more where it gains less by waiting."""
        ours, theirs = self.costs[each], self.costs[rule]
        return max(ours.cycles, theirs.cycles * waiting(ours) / waiting(theirs)) / CLOCK_GHZ / 1e3

    def _model(self, folders: Sequence[Path]) -> dict[Path, str]:
        """Find out costs and outputs of what is not known; return why others have none."""
        new = [each for each in dict.fromkeys(folders) if each not in self.costs]
        ran = self._run(new) if new else []
        failed = {each: its.complaint for each, its in zip(new, ran, strict=True) if its.complaint}
        good = [(each, its) for each, its in zip(new, ran, strict=True) if each not in failed]
        calls = [its.profiles[0] for _, its in good]
        found = costs(calls, self._core().mcpu, quick=True)
        for (each, its), cost in zip(good, found, strict=True):
            self.costs[each], self._digests[each] = cost, _digest(its)
        return failed

    def _run(self, folders: Sequence[Path]) -> list[Ran]:
        """Run candidates in one process; one after the other where that does not end well."""
        objects = [each / "kernel.o" for each in folders]
        programs = [_program(each) for each in folders]
        limit = self._timeout * len(folders)
        caches = self._core().caches
        try:
            ran = emulate(programs, objects, self._target, caches=caches, limit_s=limit)
        except CompileError as error:
            ran = [Ran(str(error)) for _ in folders]
        if all(not each.complaint and each.profiles for each in ran):
            return ran
        if len(folders) > 1:
            return [self._run([each])[0] for each in folders]
        (alone,) = ran
        kind = "timeout" if alone.complaint.startswith("stopped after") else "crash"
        return [Ran(f"{kind}: {alone.complaint or 'nothing was counted'}")]


def _program(folder: Path) -> Program:
    """Return a candidate's one call."""
    made, outputs = arguments.read(arguments.file_of(folder))
    program = Program(folder.name)
    slots = [program.add(INPUT, np.asarray(each)) for each in made]
    slots += [program.add(OUTPUT, np.zeros(*each)) for each in outputs]
    program.calls.append((symbol_of(folder), slots))
    return program


def _digest(ran: Ran) -> str:
    """Return a name for the bytes of all outputs."""
    found = hashlib.sha256()
    for slot in sorted(ran.outputs):
        found.update(ran.outputs[slot].tobytes())
    return found.hexdigest()

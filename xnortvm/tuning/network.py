# SPDX-License-Identifier: Apache-2.0
"""The whole network by the rules and with the records, timed in turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xnortvm.errors import XnortvmError
from xnortvm.freestanding.samples import sample_inputs
from xnortvm.report import Report
from xnortvm.runtime.build import build
from xnortvm.runtime.module import CompiledModel
from xnortvm.runtime.timing import Times, pinned, race, sampler
from xnortvm.tuning.find import chooser
from xnortvm.tuning.kernels import kernels_of
from xnortvm.tuning.task import Choose, Key

if TYPE_CHECKING:
    from xnortvm._tvm import IRModule
    from xnortvm.target import Target
    from xnortvm.tuning.records import Records


@dataclass(frozen=True)
class NetworkTimes:
    """Calls of one model, compiled twice.

    Attributes
    ----------
    rule, tuned : Times
        By the rules alone, and with the records.
    kernels : int
        How many different kernels the records change.
    core : int or None
        The core that both were pinned to.
    """

    rule: Times
    tuned: Times
    kernels: int
    core: int | None

    @property
    def gain(self) -> float:
        """How many times faster the median call is."""
        return self.rule.median_ms / self.tuned.median_ms

    def __str__(self) -> str:
        rule, tuned = self.rule, self.tuned
        core = "" if self.core is None else f" on core {self.core}"
        return (
            f"the whole network, {rule.runs} and {tuned.runs} calls in turns{core}: median "
            f"{rule.median_ms:.3f} ms by the rules, {tuned.median_ms:.3f} ms tuned "
            f"({self.gain:.3f}×), fastest {rule.min_ms:.3f} and {tuned.min_ms:.3f} ms; "
            f"{self.kernels} kernels tuned, the same bits"
        )


class NotTimedError(XnortvmError):
    """The whole network was not timed; the message says why."""


def time_network(graph: IRModule, target: Target, records: Records) -> NetworkTimes:
    """Compile a model by the rules and with records, compare the outputs, and time both in turns.

    Parameters
    ----------
    graph : IRModule
        After the phases that do not know the target. A dynamic batch is timed with one sample.
    target : Target
        This machine.
    records : Records

    Raises
    ------
    NotTimedError
        When there is nothing to compare, or it cannot be done; says why.
    """
    choose = chooser(records, target)
    used: set[Key] = set()
    tuned = _compiled(graph, target, _noting(choose, used))
    if not used:
        raise NotTimedError("no record changes a kernel, so both are the same code")
    rule = _compiled(graph, target, None)
    try:
        inputs = sample_inputs(rule.inputs)
        expected, found = (_bytes(each(*inputs)) for each in (rule, tuned))
        if expected != found:
            raise NotTimedError(
                "the tuned network's outputs differ from those by the rules: compile with "
                "records=False, and report this with the file of records"
            )
        with pinned(target.num_threads) as core:
            times = race(
                {
                    "rule": sampler(lambda: rule(*inputs)),
                    "tuned": sampler(lambda: tuned(*inputs)),
                }
            )
    except NotTimedError:
        raise
    except Exception as error:  # the kernels are recorded; their sum is in the summary
        raise NotTimedError(f"running it failed: {error}") from error
    return NetworkTimes(times["rule"], times["tuned"], len(used), core)


def _noting(choose: Choose | None, used: set[Key]) -> Choose:
    def noted(key: Key) -> Any:
        found = None if choose is None else choose(key)
        if found is not None:
            used.add(key)
        return found

    return noted


def _compiled(graph: IRModule, target: Target, choose: Choose | None) -> CompiledModel:
    try:
        kernels = kernels_of(graph, target, choose)
        report = Report(target=target.name, isa=target.isa, num_threads=target.num_threads)
        return CompiledModel.from_built(build(kernels, target), report)
    except XnortvmError as error:
        raise NotTimedError(f"compiling it failed: {error}") from error


def _bytes(result: Any) -> list[bytes]:
    return [each.tobytes() for each in (result if isinstance(result, tuple) else (result,))]

# SPDX-License-Identifier: Apache-2.0
"""What ``xnortvm tune`` shows on a terminal while it runs."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xnortvm.tools.machine import Machine
    from xnortvm.tuning.search import Search, State


class Limits:
    """The least time that this machine allows a kernel, see `xnortvm bench --layers`.

    Parameters
    ----------
    target : str
        As on the command line; resolved, and the machine measured, when it is first needed.
    num_threads : int or None
    """

    def __init__(self, target: str, num_threads: int | None) -> None:
        self._given = target, num_threads
        self._target: Any = None
        self._machine: Machine | None = None

    def of(self, kind: str, macs: int, size: int) -> float | None:
        """Return microseconds; None where the limits of the instruction set are not known."""
        from xnortvm.tools.bench_layers import Point

        if self._target is None:
            from xnortvm.target import resolve

            self._target = resolve(self._given[0], num_threads=self._given[1])
        target = self._target
        if not (macs and target.is_host) or target.kind == "cuda":
            return None
        machine = self._limits()
        if target.isa not in machine.macs:
            return None
        point = Point("", kind, 0.0, macs, size)
        return 1e6 * point.limit(machine, target.isa, target.num_threads)[0]

    def _limits(self) -> Machine:
        if self._machine is None:
            from xnortvm.runtime.timing import pinned
            from xnortvm.tools.machine import limits_of_this_machine

            with pinned(1):
                self._machine = limits_of_this_machine()
        return self._machine


class Progress:
    """One line on the terminal, rewritten after each step.

    Above it stay a line for each kernel that has all its candidates, and the first failure of each
    kind.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._width = 0
        self._done: set[int] = set()
        self._before: list[int] = []
        self._failures: set[str] = set()

    def __call__(self, search: Search) -> None:
        """Show how far a search is."""
        for line in self.news(search):
            self._print(line, end="\n")
        columns = shutil.get_terminal_size().columns
        line = self.line(search)[: max(columns - 1, 20)]  # a line that wraps cannot be rewritten
        self._print(line)
        self._width = len(line)

    def _print(self, line: str, end: str = "") -> None:
        print("\r" + line.ljust(self._width), end=end, file=sys.stderr, flush=True)
        self._width = 0 if end else self._width

    def news(self, search: Search) -> list[str]:
        """Return the lines that stay, each once."""
        lines = []
        for state in search.states:
            for record in state.measured.values():
                kind = record.failure.partition(":")[0]
                if kind and kind not in self._failures:
                    self._failures.add(kind)
                    lines.append(f"{state.task.key} failed: {record.failure}")
            if id(state) not in self._done and len(state.measured) >= search.wanted(state):
                self._done.add(id(state))
                lines.append(self._task(state))
        return lines

    def line(self, search: Search) -> str:
        """Return the line that is rewritten."""
        states = search.states
        done = sum(len(state.measured) for state in states)
        wanted = sum(search.wanted(state) for state in states)
        new = [state.new for state in states]
        left = search.elapsed / sum(new) * (wanted - done) if any(new) else 0.0
        if search.options.time_limit is not None:
            left = min(left, max(search.options.time_limit - search.elapsed, 0.0))
        failed = sum(bool(r.failure) for state in states for r in state.measured.values())
        before, self._before = self._before or [0] * len(new), new
        latest = [
            state for state, a, b in zip(states, before, new, strict=True) if b > a
        ]  # what the last step measured
        shown = "; ".join(["", *map(self._task, latest[-1:])])
        return (
            f"{done} of {wanted} candidates, {failed} failed, {_clock(search.elapsed)}, "
            f"about {_clock(left)} left{shown}"
        )

    def _task(self, state: State) -> str:
        """Say what is known of a kernel."""
        from xnortvm.tuning.work import work_of  # it imports TVM, which `xnortvm --help` does not

        said = f"{state.task.key}: {len(state.measured)} of {len(state.space.legal)}"
        if state.best_us is None:
            return said + ", none ran"
        rule = state.times.get(state.space.rule)
        said += f", best {state.best_us:.2f} µs"
        said += f", rule {rule:.2f}" if rule else ""
        limit = self._limits.of(*work_of(state.task))
        return said + (f", {100 * limit / state.best_us:.0f} % of the limit" if limit else "")

    def end(self) -> None:
        """Leave the line."""
        if self._width:
            print(file=sys.stderr)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"

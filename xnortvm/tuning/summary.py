# SPDX-License-Identifier: Apache-2.0
"""What a tuning run did: one row for each task, and the times of all of them together."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnortvm.errors import MissingDependencyError

if TYPE_CHECKING:
    from xnortvm.tuning.network import NetworkTimes


@dataclass
class TaskRow:
    """One task.

    Attributes
    ----------
    task : str
        Operator and shapes.
    layers : list of str
        Layers of the model that it computes.
    legal : int
        Candidates in the search space.
    kind : str
        "binary" or "float".
    macs, bytes : int
        Multiply-accumulates of one call, and bytes that it has to move.
    measured, new : int
        Candidates with a measurement, and those measured by this run.
    rule_us, best_us : float or None
        Microseconds of one call by the rule's decisions and by the best, timed in turns.
    decisions : str
        The best, or "rule".
    failures : dict of str to int
        How many candidates failed, by kind; `first_failures` has the first message of each.
    curve : list of float
        The best time after 1, 2, … candidates.
    limit_us : float or None
        The least microseconds that this machine allows; the command fills it in.
    """

    task: str
    layers: list[str]
    legal: int = 0
    kind: str = ""
    macs: int = 0
    bytes: int = 0
    measured: int = 0
    new: int = 0
    rule_us: float | None = None
    best_us: float | None = None
    decisions: str = ""
    failures: dict[str, int] = field(default_factory=dict)
    first_failures: dict[str, str] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)
    limit_us: float | None = None

    @property
    def gain(self) -> float:
        """How many times faster than the rule."""
        return self.rule_us / self.best_us if self.rule_us and self.best_us else 1.0

    @property
    def share(self) -> float | None:
        """Part of the speed that this machine allows, of the best."""
        return self.limit_us / self.best_us if self.limit_us and self.best_us else None

    def count_failures(self, failures: list[str]) -> None:
        """Fill in what failed."""
        kinds = [failure.partition(":")[0] for failure in failures]
        self.failures = dict(Counter(kinds))
        self.first_failures = dict(reversed(list(zip(kinds, failures, strict=True))))


@dataclass
class Summary:
    """A tuning run.

    Attributes
    ----------
    target : str
    seconds : float
    ended : str
        "done", "time limit", "interrupted", or why nothing was left to measure on.
    rows : list of TaskRow
        The tasks with the most time first.
    unit : str
        What the figures are, "" for microseconds that passed.
    network : NetworkTimes or None
        The whole network by the rules and tuned.
    network_note : str
        Why there is none.
    """

    target: str
    seconds: float = 0.0
    ended: str = "done"
    rows: list[TaskRow] = field(default_factory=list)
    unit: str = ""
    network: NetworkTimes | None = None
    network_note: str = ""

    @property
    def before_us(self) -> float:
        """Microseconds of all calls of all tasks in one run of the model, by the rules."""
        return sum((row.rule_us or 0.0) * len(row.layers) for row in self.rows)

    @property
    def after_us(self) -> float:
        """The same by the best decisions."""
        return sum((row.best_us or row.rule_us or 0.0) * len(row.layers) for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        data = asdict(self)
        for row, found in zip(self.rows, data["rows"], strict=True):
            found |= {"gain": row.gain, "share": row.share}
        if self.network is not None:
            data["network"]["gain"] = self.network.gain
        return data | {"before_us": self.before_us, "after_us": self.after_us}

    def __str__(self) -> str:
        head = ("task", "calls", "candidates", "rule µs", "best µs", "gain", "of limit")
        lines = [(*head, "decisions")]
        lines += [
            (
                row.task,
                str(len(row.layers)),
                f"{row.measured} of {row.legal}",
                _us(row.rule_us),
                _us(row.best_us),
                f"{row.gain:.3f}×",
                "-" if row.share is None else f"{100 * row.share:.0f} %",
                row.decisions or "-",
            )
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = [
            "  ".join(
                cell.rjust(width) if 0 < i < len(head) else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        text.insert(1, "  ".join("-" * width for width in widths))
        for row in self.rows:
            text += [
                f"{row.task}: {count} failed ({row.first_failures[kind]})"
                for kind, count in row.failures.items()
            ]
        new = sum(row.new for row in self.rows)
        rate = f"{new / max(self.seconds, 0.1):.1f} a second"
        text.append(
            f"\n{len(self.rows)} tasks, {new} new measurements in {self.seconds:.0f} s "
            f"({rate}, {self.ended}); one run of these kernels: {self.before_us:.1f} µs by the "
            f"rules, {self.after_us:.1f} µs tuned "
            f"({self.before_us / max(self.after_us, 1e-9):.3f}×)"
        )
        if self.unit:
            text.append(f"µs are no measured times: {self.unit}")
        if self.network is not None:
            text.append(str(self.network))
        elif self.network_note:
            text.append(f"the whole network was not timed: {self.network_note}")
        return "\n".join(text)

    def plot(self, path: str | Path) -> None:
        """Draw the best time so far over the number of candidates, one line for each task.

        Raises
        ------
        MissingDependencyError
            Without matplotlib.
        """
        try:
            import matplotlib as mpl

            mpl.use("Agg")
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise MissingDependencyError(
                'a plot needs matplotlib; run: pip install "xnortvm[plot]"'
            ) from error
        figure, axes = plt.subplots(figsize=(8, 5))
        for row in self.rows:
            if row.curve:
                share = [us / row.curve[0] for us in row.curve]
                axes.step(range(1, len(share) + 1), share, where="post", label=row.task)
        axes.set_xlabel("candidates")
        axes.set_ylabel("best time so far / time of the first candidate (the rule)")
        axes.legend(fontsize=6)
        figure.tight_layout()
        figure.savefig(path)
        plt.close(figure)


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

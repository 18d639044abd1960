# SPDX-License-Identifier: Apache-2.0
"""Draw networks until enough different ones came out right; shrink and save what does not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.compare import Passed, Skipped, check
from tests.fuzz.spec import Spec
from tests.fuzz.strategy import specs

#: Networks drawn with one seed: few, so that a failure is shrunk soon.
_ROUND = 40


@dataclass
class Tally:
    """What a campaign saw.

    Attributes
    ----------
    distinct : set of str
        Digests of the networks that came out right, without steps that did not fit.
    counts : Counter
        "binary" layers, "redrawn" inputs, networks by "way", and skipped ones by reason.
    failures : dict
        From the first line of a message, without numbers, to the message and the saved spec.
    """

    distinct: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, outcome: Passed | Skipped) -> None:
        """Count one network."""
        if isinstance(outcome, Skipped):
            self.counts[f"skipped, {re.sub(r'[0-9]+ of [0-9]+', 'some', outcome.reason)}"] += 1
            return
        self.distinct.add(outcome.spec.digest())
        self.counts["binary layers"] += outcome.binary
        self.counts["inputs redrawn"] += outcome.redrawn
        self.counts[f"way {outcome.spec.way}"] += 1
        self.counts["with integers verified"] += outcome.spec.verify


def key_of(error: BaseException) -> str:
    """Name a failure by its message without numbers and names of layers."""
    lines = str(error).strip().splitlines() or [""]
    text = re.sub(r"layers\.[\w.#]+|[-+\d.]+(e[-+]?\d+)?", "#", lines[0])
    return f"{type(error).__name__}: {text[:120]}"


def run(
    count: int,
    first_seed: int,
    folder: Path,
    show: Callable[[str], None],
    keep_going: bool = False,
) -> Tally:
    """Check networks until `count` different ones came out right.

    Parameters
    ----------
    count : int
    first_seed : int
        The same seed draws the same networks.
    folder : path
        Gets the spec of each failure, and ``current.json`` while a network runs, for crashes.
    show : callable
        Called with progress and failures.
    keep_going : bool
        Look for other failures after the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    for turn in range(10 * count):
        if len(tally.distinct) >= count or (tally.failures and not keep_going):
            break
        failure = _round(min(_ROUND, count), first_seed + turn, tally, folder)
        if failure is not None:
            spec, error = failure
            path = folder / f"{spec.digest()}.json"
            path.write_text(spec.to_json())
            tally.failures[key_of(error)] = f"{path}: {error}"
            show(f"FAILED {path}: {type(error).__name__}: {str(error)[:600]}")
        show(f"{len(tally.distinct)} of {count} networks")
    (folder / "current.json").unlink(missing_ok=True)
    return tally


def _round(
    examples: int, number: int, tally: Tally, folder: Path
) -> tuple[Spec, BaseException] | None:
    last: list[tuple[Spec, BaseException]] = []
    known: set[str] = set(tally.failures)

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(specs())
    def every_network(spec: Spec) -> None:
        (folder / "current.json").write_text(spec.to_json())
        try:
            outcome = check(spec)
        except Exception as error:
            if key_of(error) in known:
                tally.counts[f"known failure, {key_of(error)}"] += 1
                return
            last[:] = [(spec, error)]
            raise
        if not last:
            tally.add(outcome)

    try:
        every_network()
    except Exception as error:
        if not last:
            raise
        return last[0][0], last[0][1] or error
    return None

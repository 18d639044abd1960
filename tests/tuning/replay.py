# SPDX-License-Identifier: Apache-2.0
"""Runners that write down what another one measured, and that say it again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from xnortvm.target import Target
from xnortvm.tuning.runner import Measured, Race, Runner


class Recording(Runner):
    """Appends what a runner measured to a log: one JSON object for each question."""

    def __init__(self, runner: Runner, log: Path) -> None:
        self._runner, self._log = runner, log

    def check(self, target: Target) -> None:
        self._runner.check(target)

    def measure(self, rule: Path, batch: Sequence[Path]) -> Iterator[tuple[Path, Measured]]:
        found = {}
        for folder, each in self._runner.measure(rule, batch):
            found[_name(folder)] = asdict(each)
            yield folder, each
        self._append({"measured": found})

    def race(self, folders: Sequence[Path], turns: int) -> Race:
        race = self._runner.race(folders, turns)
        self._append({"folders": list(map(_name, folders)), "race": asdict(race)})
        return race

    def close(self) -> None:
        self._runner.close()

    def _append(self, data: dict) -> None:
        with self._log.open("a") as file:
            file.write(json.dumps(data) + "\n")


class Replay(Runner):
    """Answers from a log, last candidate first; a question that it does not hold is an error."""

    def __init__(self, log: Path) -> None:
        self._log = [json.loads(line) for line in log.read_text().splitlines()]

    def check(self, target: Target) -> None:
        return

    def measure(self, rule: Path, batch: Sequence[Path]) -> Iterator[tuple[Path, Measured]]:
        known = self._log.pop(0)["measured"]
        assert set(known) == set(map(_name, batch))
        for folder in reversed(batch):
            yield folder, Measured(**known[_name(folder)])

    def race(self, folders: Sequence[Path], turns: int) -> Race:
        entry = self._log.pop(0)
        assert entry["folders"] == list(map(_name, folders))
        return Race(**entry["race"])


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"

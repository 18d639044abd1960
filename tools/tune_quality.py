# SPDX-License-Identifier: Apache-2.0
"""How well tuning searches: from the worst candidate, beside the rule's choice and beside chance.

    python -m xnortvm.tools.tune_quality measure [--target T] [--time-limit SECONDS]
    python -m xnortvm.tools.tune_quality search [--target T]
    python -m xnortvm.tools.tune_quality [replay] [--write]

``measure`` times every legal candidate of the four 3×3 shapes of ResNet-18 once and goes on where
it was ended. ``search`` runs the search itself once on each, the slowest candidate in the place of
the rule's, and compares what it found with the rule's choice in turns (100 %: no difference of
1 %). ``replay`` runs each strategy for several seeds on the times that were measured, which gives
the same candidates every time, and prints what they found; ``--write`` puts that into
docs/tuning.md.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from xnortvm.errors import ModelError
from xnortvm.schedules.decisions import AnyDecisions, Decisions
from xnortvm.schedules.isa import ISAS, Isa
from xnortvm.schedules.tiling import WORD, Tile
from xnortvm.tools import figures
from xnortvm.tools.outcome import table
from xnortvm.tuning.propose import Rank, by_model, propose
from xnortvm.tuning.records import Records, write_lines
from xnortvm.tuning.runner import LocalRunner, cpu_name
from xnortvm.tuning.search import Options, Search
from xnortvm.tuning.space import Space, space_of, tasks_for

if TYPE_CHECKING:
    from xnortvm.target import Target
    from xnortvm.tuning.task import Task

#: What was measured, by CPU.
DATA = Path(__file__).parent / "tune_quality.json"
LOG = Path("build/tune-quality.jsonl")
TRIALS, SEEDS, BATCH = 64, 5, 8
#: After how many candidates the table says what was found.
SHOWN = (8, 16, 32, 64)
#: Distance of the median sample from the lower quartile, as a part of it, above which a measurement
#: is taken again by the next run.
_NOISE = 0.05

STRATEGIES: dict[str, str | Rank] = {
    "xgboost": "xgboost",
    "xgboost without the rules' costs": partial(by_model, table=False),
    "random": "random",
}


class Shape(NamedTuple):
    """One kernel, all of whose candidates were measured.

    Attributes
    ----------
    name : str
    rule : Decisions
        What the compiler takes.
    times : dict of Decisions to float or None
        Microseconds, None where a candidate failed.
    """

    name: str
    rule: AnyDecisions
    times: dict[AnyDecisions, float | None]

    @property
    def worst(self) -> AnyDecisions:
        """The slowest candidate."""
        return max(self.times, key=lambda each: self.times[each] or 0.0)

    @property
    def worst_us(self) -> float:
        """The time of the slowest candidate."""
        return self.times[self.worst] or 0.0

    @property
    def best_us(self) -> float:
        """The least time of all."""
        return min(us for us in self.times.values() if us)

    @property
    def rule_us(self) -> float:
        """The time of what the compiler takes."""
        found = self.times[self.rule]
        assert found is not None
        return found


def replay(shape: Shape, isa: Isa, strategy: str | Rank, seed: int) -> list[float]:
    """Return the best time after 1, 2, … candidates of a search that starts with the worst."""
    worst = shape.worst
    others = sorted((each for each in shape.times if each != worst), key=_plain)
    legal = [worst, *others]
    measured: dict[AnyDecisions, float | None] = {}
    curve: list[float] = []
    while len(measured) < min(TRIALS, len(legal)):
        count = min(BATCH, TRIALS - len(measured))
        batch = propose(legal, measured, count, isa=isa, seed=str(seed), strategy=strategy)
        for each in batch:
            us = measured[each] = shape.times[each]
            curve.append(min([*curve[-1:], us or float("inf")]))
    return curve


def results(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each shape and strategy.

    Shares are of the speed of the best candidate that there is, means over the seeds.
    """
    isa = ISAS[data["isa"]]
    for shape in shapes_of(data):
        for name, strategy in STRATEGIES.items():
            curves = [replay(shape, isa, strategy, seed) for seed in range(SEEDS)]
            after = {n: fmean(shape.best_us / curve[:n][-1] for curve in curves) for n in SHOWN}
            yield {
                "isa": isa.name,
                "kernel": shape.name,
                "candidates": len(shape.times),
                "strategy": name,
                "worst / best": shape.worst_us / shape.best_us,
                "rule": shape.best_us / shape.rule_us,
                **{f"after {n}": share for n, share in after.items()},
                "least of rule": min(shape.rule_us / curve[-1] for curve in curves),
                "trials to 99 %": fmean(_trials_to(curve, shape.best_us) for curve in curves),
            }


def _trials_to(curve: Sequence[float], best_us: float) -> int:
    """Return how many candidates it took to come within 1 % of the best; all if it did not."""
    good = (number for number, us in enumerate(curve, 1) if best_us / us >= 0.99)
    return next(good, len(curve))


def shapes_of(data: dict[str, Any]) -> list[Shape]:
    """Return the shapes of one CPU's data."""
    return [
        Shape(
            each["name"],
            _read(each["rule"]),
            {_read(row[:-1]): row[-1] for row in each["times"]},
        )
        for each in data["shapes"]
    ]


def _plain(decisions: AnyDecisions) -> list[Any]:
    assert isinstance(decisions, Decisions)
    return [decisions.form, decisions.width, *decisions.tile, decisions.block]


def _read(row: Sequence[Any]) -> Decisions:
    form, width, rows, columns, vectors, block = row
    return Decisions(form, width, Tile(rows, columns, vectors), block)


def load() -> dict[str, Any]:
    """Return what was measured, by CPU."""
    data: dict[str, Any] = json.loads(DATA.read_text()) if DATA.exists() else {}
    return data


def _save(mcpu: str, found: dict[str, Any]) -> None:
    data = load() | {mcpu: found}
    text = json.dumps(data, ensure_ascii=False, indent=1)
    DATA.write_text(_joined(text) + "\n")


def _joined(text: str) -> str:
    """Put the innermost lists on one line each."""
    lines: list[str] = []
    inner = False
    for line in text.splitlines():
        if inner:
            lines[-1] += line.strip() + (" " if line.endswith(",") and "]" not in line else "")
        else:
            lines.append(line)
        opens = line.endswith("[") and "shapes" not in line and "rows" not in line
        inner = opens or (inner and "]" not in line)
    return "\n".join(lines)


def tasks_here(target: Target) -> dict[str, tuple[Task, Space]]:
    """Return ResNet-18's four 3×3 shapes that keep map and channels, by name.

    Of the kernels of a shape, the one with the largest space.
    """
    from xnortvm import models
    from xnortvm.api import lower

    found: dict[str, tuple[Task, Space]] = {}
    model = models.build("resnet18", seed=0, scale="channel-height-width")
    for task in tasks_for(lower(model, example_inputs=(models.random_input(model),)), target):
        key = task.key
        if key.op != "bconv2d" or key.shapes[1][1] != 3 or "strides=1,1" not in key.attributes:
            continue
        (_, size, _, words), outputs = key.shapes[0], key.shapes[1][0]
        space = space_of(task, target) if words * WORD == outputs else None
        name = f"3×3 {outputs}→{outputs}, {size}×{size}"
        if space and (name not in found or len(space.legal) > len(found[name][1].legal)):
            found[name] = task, space
    return found


def measure(target: Target, log: Path, time_limit: float | None) -> str:
    """Measure every candidate that the log lacks; write the data when it is complete.

    What was measured while the machine did something else is measured again.
    """
    found = tasks_here(target)
    options = Options(trials=sys.maxsize, time_limit=time_limit, strategy="random")
    records = _without_noise(log)
    spaces = {task.key: space for task, space in found.values()}
    tasks = [task for task, _ in found.values()]
    Search(tasks, target, records, options, space=lambda task, _: spaces[task.key]).run()
    shapes, missing = [], 0
    for name, (task, space) in found.items():
        known = records.trials(task.key, target)
        missing += sum(each not in known for each in space.legal)
        times = [[*_plain(each), known[each].us] for each in space.legal if each in known]
        shapes.append({"name": name, "rule": _plain(space.rule), "times": times})
    if missing:
        return f"{missing} candidates are left; the same command goes on"
    data = {"isa": target.isa, "where": cpu_name(), "date": _today(), "shapes": shapes}
    _save(target.mcpu, load().get(target.mcpu, {}) | data)
    return f"all candidates are measured and in {DATA}"


def _without_noise(log: Path) -> Records:
    records = Records(log)
    quiet = [each for each in records if each.noise <= _NOISE]
    if len(quiet) == len(records):
        return records
    write_lines(log, [each.to_line() for each in quiet])
    return Records(log)


def search(target: Target) -> str:
    """Run the search itself on every shape, with its slowest candidate in the rule's place."""
    data = load()
    shapes = {each.name: each for each in shapes_of(_of(data, target.mcpu))}
    found = tasks_here(target)
    keys = {task.key: name for name, (task, _) in found.items()}

    def space(task: Task, _: Target) -> Space:
        worst = shapes[keys[task.key]].worst
        legal = found[keys[task.key]][1].legal
        return Space(worst, [worst, *(each for each in legal if each != worst)])

    records, tasks = Records(), [task for task, _ in found.values()]
    Search(tasks, target, records, Options(trials=TRIALS), space=space).run()

    def final(task: Task, _: Target) -> Space:
        best = records.best(task.key, target)
        rule = shapes[keys[task.key]].rule
        first = rule if best is None else best.decisions
        return Space(first, list(dict.fromkeys([first, rule])))

    finals = Records()  # what was found and the rule's choice, in turns
    Search(tasks, target, finals, Options(trials=2, strategy="random"), space=final).run()
    rows = []
    for name, (task, _) in found.items():
        best, last = records.best(task.key, target), finals.best(task.key, target)
        assert best is not None
        assert last is not None
        rows.append(
            {
                "kernel": name,
                "candidates": best.trials,
                "worst us": best.rule_us,
                "found us": best.us,
                "of rule": 1 / last.gain,
                "decisions": str(best.decisions),
            }
        )
    data[target.mcpu]["searches"] = {"date": _today(), "rows": rows}
    _save(target.mcpu, data[target.mcpu])
    return table(list(rows[0]), [list(row.values()) for row in rows])


def _today() -> str:
    return dt.date.today().isoformat()


def _of(data: dict[str, Any], mcpu: str) -> dict[str, Any]:
    if mcpu not in data:
        raise ModelError(
            f"nothing is measured for {mcpu} yet; "
            "`python -m xnortvm.tools.tune_quality measure` does it"
        )
    found: dict[str, Any] = data[mcpu]
    return found


def markdown(data: dict[str, Any]) -> list[str]:
    """Return the lines that stand in the documentation."""
    shown = [f"after {n}" for n in SHOWN]
    head = ["instruction set", "kernel", "candidates", "rule", "strategy", *shown]
    head += ["least of rule", "trials to 99 %"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|--:|--:|---|" + "--:|" * (len(head) - 5)]
    for each in data.values():
        for row in results(each):
            cells = [row["isa"], row["kernel"], str(row["candidates"]), _percent(row["rule"])]
            cells += [row["strategy"], *(_percent(row[name]) for name in shown)]
            cells += [_percent(row["least of rule"]), f"{row['trials to 99 %']:.0f}"]
            lines.append("| " + " | ".join(cells) + " |")
    searches = [row for each in data.values() for row in each.get("searches", {}).get("rows", ())]
    if searches:
        lines += [
            "",
            "| search on the machine | candidates | worst µs | found µs | of the rule, in turns |",
            "|---|--:|--:|--:|--:|",
        ]
        lines += [
            f"| {row['kernel']} | {row['candidates']} | {row['worst us']:.1f} | "
            f"{row['found us']:.1f} | {_percent(row['of rule'])} |"
            for row in searches
        ]
    where = "; ".join(
        f"{mcpu} on {each['where']}, measured {each['date']}" for mcpu, each in data.items()
    )
    return [*lines, "", f"`python -m xnortvm.tools.tune_quality`, {where}."]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, search or replay."""
    from xnortvm.target import resolve

    parser = argparse.ArgumentParser(
        prog="python -m xnortvm.tools.tune_quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "action", nargs="?", choices=["measure", "search", "replay"], default="replay"
    )
    parser.add_argument("--target", default="llvm", help="one that this machine can run")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="of measure")
    parser.add_argument("--log", type=Path, default=LOG, help="measure: what was measured so far")
    parser.add_argument("--write", action="store_true", help="replay: into docs/tuning.md")
    args = parser.parse_args(argv)
    if args.action == "replay":
        data = load()
        if args.write:
            figures.put(markdown(data), figures.places("tune-quality", ["docs/tuning.md"]))
        rows = [row for each in data.values() for row in results(each)]
        print(table(list(rows[0]), [list(row.values()) for row in rows]))
        return 0
    target = resolve(args.target, num_threads=1)
    LocalRunner(1).check(target)
    done = search(target) if args.action == "search" else measure(target, args.log, args.time_limit)
    print(done)
    return 0


if __name__ == "__main__":
    sys.exit(main())

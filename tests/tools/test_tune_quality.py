# SPDX-License-Identifier: Apache-2.0
"""The search finds the rule's speed from the worst start, and finds it sooner than chance."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from tests.tuning.networks import binary_task
from xnortvm.schedules.isa import ISAS
from xnortvm.target import resolve
from xnortvm.tools import figures, tune_quality
from xnortvm.tools.layer_modules import Layer
from xnortvm.tuning.records import Records, write_lines
from xnortvm.tuning.space import Space, space_of

DATA = tune_quality.load()["znver4"]
ISA = ISAS[DATA["isa"]]
SHAPES = tune_quality.shapes_of(DATA)
MODEL, NO_COSTS, RANDOM = tune_quality.STRATEGIES.values()


def test_all_candidates_of_resnets_four_shapes_are_measured() -> None:
    names = ["64→64, 56×56", "128→128, 28×28", "256→256, 14×14", "512→512, 7×7"]
    assert [shape.name for shape in SHAPES] == [f"3×3 {name}" for name in names]
    for shape in SHAPES:
        assert shape.rule in shape.times
        assert shape.times[shape.worst] > 1.5 * shape.best_us  # a bad start


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_from_the_worst_candidate_64_trials_reach_the_rule(shape: tune_quality.Shape) -> None:
    curve = tune_quality.replay(shape, ISA, NO_COSTS, seed=0)
    assert len(curve) == 64
    assert curve[0] == shape.times[shape.worst]
    assert shape.rule_us / curve[-1] >= 0.99  # the promise is 0.9


def test_the_model_is_better_than_chance_after_as_many_trials() -> None:
    shares: dict[int, list[float]] = {0: [], 1: []}
    for shape in SHAPES[2:3]:
        for seed in range(2):
            for number, strategy in enumerate((NO_COSTS, RANDOM)):
                curve = tune_quality.replay(shape, ISA, strategy, seed)
                shares[number].append(shape.best_us / curve[31])
    assert fmean(shares[0]) > fmean(shares[1])


def test_a_measured_log_and_a_seed_give_the_same_search() -> None:
    first, again = (tune_quality.replay(SHAPES[3], ISA, MODEL, seed=1) for _ in range(2))
    assert first == again


def test_measures_everything_once_and_searches_from_the_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = resolve("llvm")
    task = binary_task(Layer(1, 32, 4, 32, 1))
    whole = space_of(task, target)
    space = Space(whole.rule, whole.legal[:4])
    monkeypatch.setattr(tune_quality, "DATA", tmp_path / "data.json")
    monkeypatch.setattr(tune_quality, "tasks_here", lambda _: {"small": (task, space)})
    core = max(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {core})  # one builder is enough
    log = tmp_path / "log.jsonl"
    assert "goes on" in tune_quality.measure(target, log, time_limit=0.0)
    assert "all candidates are measured" in tune_quality.measure(target, log, None)
    calm = [replace(each, noise=0.0).to_line() for each in Records(log)]
    write_lines(log, calm)
    lines = log.read_text()
    assert tune_quality.measure(target, log, None)
    assert log.read_text() == lines  # nothing twice
    noisy = replace(next(iter(Records(log))), noise=0.3)
    write_lines(log, [noisy.to_line(), *lines.splitlines()[1:]])
    assert "all candidates are measured" in tune_quality.measure(target, log, None)
    assert noisy not in list(Records(log))
    (shape,) = tune_quality.shapes_of(tune_quality.load()[target.mcpu])
    assert set(shape.times) == set(space.legal)
    assert "small" in tune_quality.search(target)
    table = tune_quality.markdown(tune_quality.load())
    assert any(row.startswith("| small | ") for row in table)


def test_a_figure_is_put_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- figures: x -->\nold\n<!-- end -->\nb\n")
    figures.put(["new"], figures.places("x", ["page.md"], tmp_path))
    assert page.read_text() == "a\n<!-- figures: x -->\nnew\n<!-- end -->\nb\n"

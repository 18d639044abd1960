# SPDX-License-Identifier: Apache-2.0
"""Candidates: the rule first, then by the model, the same for the same seed and measurements."""

from __future__ import annotations

import pytest

from tests.tuning.networks import binary_task
from xnortvm.errors import ModelError
from xnortvm.schedules.isa import ISAS
from xnortvm.target import resolve
from xnortvm.tools.layer_modules import Layer
from xnortvm.tuning.propose import check_strategy, propose

ISA = ISAS["avx2"]


@pytest.fixture(scope="module")
def legal():
    from xnortvm.tuning.space import space_of

    return space_of(binary_task(Layer(3, 64, 14, 64, 1)), resolve("llvm -mcpu=haswell")).legal


def time_of(decisions):
    """A machine that is unlike the rules' table: it looks up slowly and has few registers."""
    used = decisions.tile.accumulators
    waits = 12 / used + 0.5 * max(used - 8, 0)
    return waits + 2.0 * (decisions.form == "table") + 0.1 * (decisions.width - 14)


def search(legal, strategy, count, seed="0"):
    measured = {}
    while len(measured) < count:
        batch = propose(legal, measured, 8, isa=ISA, seed=seed, strategy=strategy)
        measured.update({each: time_of(each) for each in batch})
    return measured


@pytest.mark.parametrize("strategy", ["xgboost", "random"])
def test_the_rule_is_candidate_0_and_nothing_comes_twice(legal, strategy: str) -> None:
    measured = {}
    while batch := propose(legal, measured, 8, isa=ISA, seed="0", strategy=strategy):
        assert not set(batch) & set(measured)
        assert len(set(batch)) == len(batch)
        measured.update(dict.fromkeys(batch, 1.0))
    assert next(iter(measured)) == legal[0]
    assert set(measured) == set(legal)


def test_the_same_seed_and_measurements_give_the_same_candidates(legal) -> None:
    for strategy in ("xgboost", "random"):
        assert list(search(legal, strategy, 40)) == list(search(legal, strategy, 40))
    assert list(search(legal, "random", 40)) != list(search(legal, "random", 40, seed="1"))


def test_the_model_finds_better_candidates_than_chance(legal) -> None:
    found = dict.fromkeys(("xgboost", "random"), 0.0)
    for strategy in found:
        for seed in "012":
            found[strategy] += min(search(legal, strategy, 24, seed).values())
    assert found["xgboost"] < found["random"]


def test_failed_candidates_are_not_proposed_again_and_do_not_disturb(legal) -> None:
    measured = dict.fromkeys(legal[:10])
    batch = propose(legal, measured, 8, isa=ISA, seed="0")
    assert len(batch) == 8
    assert not set(batch) & set(measured)


def test_an_unknown_strategy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"did you mean 'xgboost'"):
        check_strategy("xgbost")

# SPDX-License-Identifier: Apache-2.0
"""Which candidates to measure next: a pure function of the space, the log and the seed.

XGBoost learns the logarithm of the time from a dozen features of decisions and ranks what has not
been measured. MetaSchedule's own cost model extracts its features from lowered code and needs every
candidate built first; a space here has ten to a few hundred members, whose differences are the
numbers of the decisions themselves.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from math import log, log2
from typing import Any

import numpy as np

from xnortvm.errors import MissingDependencyError, ModelError, near
from xnortvm.schedules.decisions import AnyDecisions, Decisions
from xnortvm.schedules.isa import Isa
from xnortvm.schedules.tiling import COSTS

#: Parts of a batch that are taken at random: whatever the model says, and before there is one.
_RANDOM_PART, _FIRST_RANDOM_PART = 0.25, 0.5
#: Measurements below which a model has nothing to learn from.
_FEWEST = 6

#: Models, each of which weighs the measurements at random: where they differ, little is known, and
#: a candidate counts as that much faster.
_MODELS = 4
_OPTIONS: dict[str, Any] = {
    "max_depth": 4,
    "eta": 0.2,
    "min_child_weight": 0,
    "nthread": 1,
    "seed": 0,
    "verbosity": 0,
}

Array = np.ndarray[Any, Any]
Measured = Mapping[AnyDecisions, float | None]
Rank = Callable[[Sequence[AnyDecisions], Measured, Isa, random.Random], list[float]]


def features(decisions: Decisions, isa: Isa, *, table: bool = True) -> dict[str, float]:
    """Return what the model sees of a loop nest; the cost by the rules' table where it may."""
    tile, costs = decisions.tile, COSTS[decisions.form]
    return {
        "form": float(list(COSTS).index(decisions.form)),
        "rows": log2(tile.rows),
        "columns": log2(tile.columns),
        "vectors": log2(tile.vectors),
        "block": log2(decisions.block),
        "pixels": log2(tile.pixels),
        "accumulators": log2(tile.accumulators),
        "width": float(decisions.width),
        "pressure": (tile.accumulators + tile.vectors) / isa.registers(decisions.form),
        "blocks": decisions.block / tile.vectors,
        "cost": log2(max(costs.of(tile), 1e-3)) if table else 0.0,
    }


def matrix(found: Sequence[AnyDecisions], isa: Isa, *, table: bool) -> list[Array]:
    """Return the rows that the model sees; NaN where a family of kernels has no such number."""
    seen = [
        features(each, isa, table=table) if isinstance(each, Decisions) else each.numbers
        for each in found
    ]
    names = list(dict.fromkeys(name for each in seen for name in each))
    return [np.array([each.get(name, np.nan) for name in names]) for each in seen]


def costs(left: Sequence[AnyDecisions]) -> list[float]:
    """Return the costs by the rules' table; kernels for GPUs stand in the order of theirs."""
    return [
        COSTS[each.form].of(each.tile) * each.width if isinstance(each, Decisions) else float(place)
        for place, each in enumerate(left)
    ]


def check_strategy(strategy: str) -> None:
    """Refuse what is no strategy, or cannot be followed here, before anything is compiled.

    Raises
    ------
    ModelError, MissingDependencyError
    """
    if strategy not in RANKS:
        known = ", ".join(RANKS)
        raise ModelError(
            f"{strategy!r} is no search strategy{near(strategy, RANKS)}; there are {known}"
        )
    if strategy == "xgboost":
        _xgboost()


def propose(
    legal: Sequence[AnyDecisions],
    measured: Measured,
    count: int,
    *,
    isa: Isa,
    seed: str,
    strategy: str | Rank = "xgboost",
    early: Sequence[AnyDecisions] = (),
) -> list[AnyDecisions]:
    """Return up to `count` decisions that have not been measured.

    Parameters
    ----------
    legal : sequence of AnyDecisions
        The space; the rule's decisions first, which are always measured first.
    measured : mapping
        Microseconds, None for candidates that failed.
    seed : str
        The same space, log and seed give the same candidates, in whatever order it was measured.
    early : sequence of AnyDecisions
        Members of the space that come right after the rule's.
    strategy : str or Rank
        Row of `RANKS`, or a function like those.
    """
    left = [each for each in legal if each not in measured]
    if not left or count < 1:
        return []
    measured = {each: measured[each] for each in legal if each in measured}
    chance = random.Random(f"{seed} {len(measured)}")
    chosen = [left[0]] if left[0] == legal[0] else []
    chosen += [each for each in dict.fromkeys(early) if each in left and each not in chosen]
    rank = RANKS[strategy] if isinstance(strategy, str) else strategy
    ranks = rank(left, measured, isa, chance)
    ties = [chance.random() for _ in left]  # trees rank whole regions alike
    by_rank = sorted(range(len(left)), key=lambda i: (ranks[i], ties[i]))
    ranked = [left[i] for i in by_rank]
    part = _RANDOM_PART if len(measured) >= _FEWEST else _FIRST_RANDOM_PART
    good = count - round(count * part)
    chosen += [each for each in ranked[:good] if each not in chosen]
    rest = [each for each in left if each not in chosen]
    chance.shuffle(rest)
    return [*chosen, *rest][:count]


def _random(
    left: Sequence[AnyDecisions], _measured: Measured, _isa: Isa, chance: random.Random
) -> list[float]:
    return [chance.random() for _ in left]


def by_model(
    left: Sequence[AnyDecisions],
    measured: Measured,
    isa: Isa,
    chance: random.Random,
    *,
    table: bool = True,
) -> list[float]:
    """Rank by XGBoost, by the rules' own table of costs until there is enough to learn from.

    Parameters
    ----------
    table : bool
        Whether the rules' table may be used; without it, the first candidates are random.
    """
    known = [(each, us) for each, us in measured.items() if us]
    if len(known) < _FEWEST:
        return costs(left) if table else [chance.random() for _ in left]
    xgboost = _xgboost()
    rows = matrix([*(each for each, _ in known), *left], isa, table=table)
    seen, wanted = rows[: len(known)], xgboost.DMatrix(np.array(rows[len(known) :]), nthread=1)
    logs = np.array([log(us) for _, us in known])
    guesses = []
    for _ in range(_MODELS):
        weights = np.array([chance.expovariate(1.0) for _ in known])
        data = xgboost.DMatrix(np.array(seen), label=logs, weight=weights, nthread=1)
        guesses.append(xgboost.train(_OPTIONS, data, num_boost_round=50).predict(wanted))
    guess = np.mean(guesses, axis=0) - np.std(guesses, axis=0)
    return [float(value) for value in guess]


def _xgboost() -> Any:
    try:
        import xgboost
    except ImportError as error:
        raise MissingDependencyError(
            "tuning by the cost model needs the package xgboost, which cannot be imported "
            f'({error}); run: pip install "xnortvm[tune]", or take the strategy "random"'
        ) from error
    return xgboost


RANKS: dict[str, Rank] = {"xgboost": by_model, "random": _random}

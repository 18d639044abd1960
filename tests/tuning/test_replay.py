# SPDX-License-Identifier: Apache-2.0
"""The same seed, records and measurements give the same decisions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tuning.candidates import LAYER
from tests.tuning.networks import binary_task
from tests.tuning.replay import Recording, Replay
from xnortvm.target import resolve
from xnortvm.tuning.records import Records
from xnortvm.tuning.runner import LocalRunner, Runner
from xnortvm.tuning.search import Options, Search


def decided(records: Records, kind: str) -> list:
    return [each.decisions for each in records if each.kind == kind]


def searched(runner: Runner, seed: int, **options) -> Records:
    records = Records()
    given = Options(trials=18, builders=1, seed=seed, **options)
    Search([binary_task(LAYER)], resolve("llvm"), records, given, runner=runner).run()
    return records


def test_a_recorded_log_gives_the_same_decisions_in_whatever_order_it_is_told(
    tmp_path: Path,
) -> None:
    pytest.importorskip("xgboost")
    log = tmp_path / "log.jsonl"
    real = searched(Recording(LocalRunner(1), log), seed=3)
    again = searched(Replay(log), seed=3, worker="tests.tuning.quick_worker")
    assert sorted(map(str, decided(again, "trial"))) == sorted(map(str, decided(real, "trial")))
    assert decided(again, "trial") != decided(real, "trial")  # it was told in another order
    (best,), (best_again,) = ([r for r in each if r.kind == "best"] for each in (real, again))
    assert (best.decisions, best.us, best.noise) == (
        best_again.decisions,
        best_again.us,
        best_again.noise,
    )
    with pytest.raises(AssertionError):  # another seed asks for other candidates
        searched(Replay(log), seed=4, worker="tests.tuning.quick_worker")

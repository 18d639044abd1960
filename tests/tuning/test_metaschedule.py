# SPDX-License-Identifier: Apache-2.0
"""Our workers behind MetaSchedule's interfaces."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tvm.s_tir.meta_schedule.arg_info import TensorInfo
from tvm.s_tir.meta_schedule.builder import BuilderInput
from tvm.s_tir.meta_schedule.runner import RunnerInput

from xnortvm._tvm import IRModule, TvmTarget, te
from xnortvm.errors import TargetError
from xnortvm.tuning.metaschedule import Workers

TARGET = TvmTarget({"kind": "llvm", "mcpu": "x86-64", "num-cores": 1})


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers("llvm", builders=1) as made:
        yield made


def doubled(body=lambda x: x * 2.0) -> IRModule:
    x = te.placeholder((64, 64), "float32", name="x")
    y = te.compute((64, 64), lambda i, j: body(x[i, j]), name="y")
    return IRModule({"main": te.create_prim_func([x, y]).with_attr("global_symbol", "main")})


def run(workers: Workers, path: str):
    info = [TensorInfo("float32", [64, 64])] * 2
    (future,) = workers.runner.run([RunnerInput(path, "llvm", info)])
    assert future.done()
    return future.result()


def test_candidates_are_built_and_timed_through_tvms_objects(workers: Workers) -> None:
    two = [BuilderInput(doubled(), TARGET), BuilderInput(doubled(lambda x: x + 1.0), TARGET)]
    first, second = workers.builder.build(two)
    assert first.error_msg is None
    assert second.error_msg is None
    # MetaSchedule deletes the folder of each artifact, so no two may share one.
    assert Path(first.artifact_path).parent != Path(second.artifact_path).parent
    (seconds,) = run(workers, first.artifact_path).run_secs
    assert 0 < float(seconds) < 1
    shutil.rmtree(Path(first.artifact_path).parent)
    assert run(workers, second.artifact_path).error_msg is None
    assert "tvm.s_tir.tensor_intrin" not in sys.modules


def test_a_candidate_that_cannot_be_built_or_is_gone_costs_only_itself(workers: Workers) -> None:
    two = IRModule({"a": doubled()["main"], "b": doubled()["main"]})
    bad, good = workers.builder.build([BuilderInput(two, TARGET), BuilderInput(doubled(), TARGET)])
    assert bad.artifact_path is None
    assert "error: ValueError" in bad.error_msg
    assert good.error_msg is None
    gone = run(workers, "/nowhere/kernel.so")
    assert gone.run_secs is None
    assert "FileNotFoundError" in gone.error_msg


def test_a_target_that_this_machine_cannot_run_is_refused() -> None:
    with pytest.raises(TargetError, match="cannot be timed here"):
        Workers("llvm -mcpu=cortex-a72")

# SPDX-License-Identifier: Apache-2.0
"""Tuning for GPUs, all of it but the times: candidates are machine code, no GPU runs them here."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import xnortvm
from tests.tuning.networks import BinaryConv, binary_task
from xnortvm.api import lower
from xnortvm.errors import MissingDependencyError, TargetError
from xnortvm.runtime import cuda_driver
from xnortvm.runtime.cuda_compiler import find_cuda_compiler
from xnortvm.schedules.decisions import Decisions
from xnortvm.schedules.tiling import Tile
from xnortvm.target import Target, resolve
from xnortvm.tools.layer_modules import Layer
from xnortvm.tuning.find import chooser
from xnortvm.tuning.gpu_place import Gpu
from xnortvm.tuning.records import Machine, Record, Records
from xnortvm.tuning.runner import Measured, Race, Runner
from xnortvm.tuning.search import Options, Search
from xnortvm.tuning.space import space_of, tasks_for
from xnortvm.tuning.task import Task

TARGET = "cuda -arch=sm_90a"


def _has_nvcc() -> bool:
    try:
        return find_cuda_compiler().name == "nvcc"
    except MissingDependencyError:
        return False


needs_nvcc = pytest.mark.skipif(not _has_nvcc(), reason="candidates are compiled by nvcc")
without_gpu = pytest.mark.skipif(cuda_driver.has_driver(), reason="this machine has a driver")


def two_layers() -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers = BinaryConv(64, 64, 3, padding=1), torch.nn.BatchNorm2d(64), BinaryConv(64, 32, 1)
    return torch.nn.Sequential(*layers).eval(), torch.randn(1, 64, 6, 6)


def float_task() -> Task:
    net = torch.nn.Conv2d(3, 64, 3, padding=1).eval()
    graph = lower(net, example_inputs=torch.randn(1, 3, 16, 16))
    (task,) = tasks_for(graph, resolve(TARGET))
    return task


class SlowRule(Runner):
    """The times of a GPU that there is not: of all that was built, the rule's kernel is slowest."""

    def check(self, target: Target) -> None:
        return

    def measure(self, rule: Path, batch: Sequence[Path]) -> Iterator[tuple[Path, Measured]]:
        for each in batch:
            yield each, Measured(self.us(each, rule), where="a stand-in")

    def race(self, folders: Sequence[Path], turns: int) -> Race:
        times = [[self.us(each, folders[0])] * turns for each in folders]
        return Race(times, [""] * len(folders), where="a stand-in")

    def us(self, each: Path, rule: Path) -> float:
        library = (each / "kernel.so").read_bytes()
        assert library[:4] == b"\x7fELF"
        assert b".nv_fatbin" in library or b"sm_90a" in library
        return 8.0 if each == rule else 4.0


def tuned(path: Path, trials: int) -> tuple[Records, Search]:
    model, x = two_layers()
    target = resolve(TARGET)
    tasks = tasks_for(lower(model, example_inputs=x), target)
    options = Options(trials, strategy="random", builders=1)
    search = Search(tasks, target, Records(path), options, runner=SlowRule())
    search.run()
    return Records(path), search


@needs_nvcc
def test_candidates_are_built_recorded_and_taken(tmp_path: Path) -> None:
    path = tmp_path / "sm_90a.jsonl"
    records, search = tuned(path, 2)
    assert not records.damaged
    assert [each.failure for each in records if each.failure] == []
    assert {each.target for each in records} == {Machine("sm_90a", "cuda", 1)}
    assert [row.new for row in search.summary.rows] == [2, 2]
    best = records.all_best(resolve(TARGET))
    assert [each.gain for each in best] == [2.0, 2.0]
    assert tuned(path, 2)[1].summary.rows[0].new == 0  # it goes on where it was

    model, x = two_layers()
    made = xnortvm.compile(model, target=TARGET, example_inputs=x, records=tmp_path)
    rows = [row for row in made.report.layers if row.binary]
    assert {row.decided_by for row in rows} == {"tuned"}
    assert {row.schedule for row in rows} == {f"{e.decisions.family}.sm_90a" for e in best}
    assert "tuned" in str(made.report)


def record(task: Task, target: Target, decisions: object) -> Record:
    made = Record("best", task.key, Machine.of(target), decisions, us=1.0, rule_us=2.0)
    return replace(made, trials=1)


@pytest.mark.parametrize("name", [TARGET, "llvm -mcpu=znver4"])
def test_a_record_that_is_no_longer_legal_is_left_out_with_a_warning(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    from xnortvm._tvm import tirx
    from xnortvm.tuning.kernels import kernels_of

    model, x = two_layers()
    target = resolve(name)
    graph = lower(model, example_inputs=x)
    first, *_ = tasks_for(graph, target)
    rule = space_of(first, target).rule
    stale = (
        replace(rule, tile=(("columns", 7),))
        if target.kind == "cuda"
        else Decisions("word", 9, Tile(1, 5, 1), 2)  # wider than the map: it would be padded
    )
    records = Records()
    records.append(record(first, target, stale))
    with caplog.at_level(logging.WARNING):
        made = kernels_of(graph, target, chooser(records, target))
    assert caplog.text.count(f"the record of {first.key} is not used") == 1
    plain = kernels_of(graph, target, None)

    def code(mod: object) -> list[str]:
        funcs = [each for each in mod.functions.values() if isinstance(each, tirx.PrimFunc)]
        return sorted(func.script() for func in funcs)

    assert code(made) == code(plain)


def test_records_of_one_architecture_are_no_others(tmp_path: Path) -> None:
    task, target = binary_task(Layer(3, 64, 6, 64, 1)), resolve(TARGET)
    path = tmp_path / "sm_90a.jsonl"
    Records(path).append(record(task, target, space_of(task, target).legal[3]))
    assert chooser(Records(path), target)(task.key) is not None
    for other in ("cuda -arch=sm_80", "llvm"):
        assert chooser(Records(path), resolve(other)) is None
    # Nor are they taken over by kernels alike: that was not measured.
    near = replace(task.key, shapes=((2, *task.key.shapes[0][1:]), task.key.shapes[1]))
    assert chooser(Records(path), target)(near) is None


def test_a_sample_is_a_graph_of_launches_recorded_once() -> None:
    class Clock:
        sizes: ClassVar[list[int]] = []
        driver: Any = None

        def recorded(self, call: Any, count: int) -> Any:
            self.sizes.append(count)
            return lambda: [call() for _ in range(count)], "graph"

        def times(self, work: Any, rounds: int) -> list[float]:
            return [len(work()) * 2e-6 for _ in range(rounds)]

    gpu, calls = Gpu.__new__(Gpu), []
    gpu._clock = Clock()
    gpu._clock.driver = gpu._clock
    seconds = gpu.timer({"kernel": lambda *tensors: calls.append(tensors)}, ["x", "y"])
    assert seconds(5, 3) + seconds(5, 1) + seconds(1, 1) == [2e-6] * 5
    assert Clock.sizes == [5, 1]
    assert calls == [("x", "y")] * 21


@without_gpu
def test_without_a_gpu_that_is_one_sentence() -> None:
    model, x = two_layers()
    with pytest.raises(TargetError, match=r"no GPU of this machine runs .*no NVIDIA driver"):
        xnortvm.tune(model, target=TARGET, example_inputs=x, strategy="random")
    with pytest.raises(TargetError, match="cannot be modelled"):
        xnortvm.tune(model, target=TARGET, example_inputs=x, strategy="random", runner="model")

# SPDX-License-Identifier: Apache-2.0
"""Tuning for ARM cores that are not at hand: in an emulator, by modelled cycles."""

from __future__ import annotations

import pickle
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import xnortvm
from tests.tuning.networks import binary_task, network
from xnortvm.api import lower as lower_model
from xnortvm.emulation import needs
from xnortvm.emulation.cost import Cost, waiting
from xnortvm.emulation.network import library
from xnortvm.emulation.network import network as emulated_network
from xnortvm.emulation.run import emulate
from xnortvm.errors import MissingDependencyError, ModelError, TargetError
from xnortvm.target import resolve
from xnortvm.tools.layer_modules import Layer
from xnortvm.tuning import worker
from xnortvm.tuning.arguments import file_of
from xnortvm.tuning.find import chooser
from xnortvm.tuning.modelled import ModelledRunner
from xnortvm.tuning.records import Records
from xnortvm.tuning.runner import RuleError
from xnortvm.tuning.space import space_of, task_to_bytes
from xnortvm.tuning.task import decide

TARGET = resolve("rpi4")
LAYER = Layer(3, 64, 8, 64, 1)
WHY = needs.missing_for_costs()
needs_models = pytest.mark.skipif(WHY is not None, reason=str(WHY))


@pytest.fixture(scope="module")
def runner() -> ModelledRunner:
    made = ModelledRunner(TARGET, timeout=5.0)
    made.check(TARGET)
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The rule's kernel and another of one layer, built."""
    place = tmp_path_factory.mktemp("task")
    task = binary_task(LAYER)
    (place / "task.json").write_bytes(task_to_bytes(task))
    legal = space_of(task, TARGET).legal
    other = next(d for d in legal[1:] if (d.form, d.width) == (legal[0].form, legal[0].width))
    found = [place / "c0", place / "c1"]
    for folder, decisions in zip(found, (legal[0], other), strict=True):
        message = {"task": str(place / "task.json"), "target": TARGET.name, "threads": 1}
        message |= {"decisions": decisions.to_json(), "folder": str(folder)}
        assert worker.build_object(message) == {}
    return found


def broken(folders: list[Path], name: str, body: str) -> Path:
    """A candidate whose kernel is written in C."""
    folder = folders[0].parent / name
    folder.mkdir(exist_ok=True)
    (folder / "arguments").write_text((folders[0] / "arguments").read_text())
    source = folder / "kernel.c"
    source.write_text(f"int __tvm_ffi_kernel_{name}(void) {{ {body} }}")
    compiler = needs.find_cross_compiler(needs.machine_of(TARGET.link))
    subprocess.run([*compiler, "-c", source, "-o", folder / "kernel.o"], check=True)
    return folder


@needs_models
def test_candidates_have_modelled_cycles_and_the_rules_outputs(runner, folders) -> None:
    (_, rule), (_, other) = runner.measure(folders[0], folders)
    assert rule.checked() == rule
    assert rule.digest == other.digest == other.expected
    cost = runner.costs[folders[0]]
    assert rule.us == pytest.approx(cost.cycles / 1500)
    assert cost.instructions > 8 * 8 * 64 * 9 * 64 / 128 * 3  # three for 128 bits, at the least
    assert rule.where == "model of cortex-a72 (Raspberry Pi 4)"
    assert runner.unit.startswith("modelled cycles at 1.5 GHz, llvm-mca ")
    race = runner.race(folders, 15)
    assert race.turns == [[rule.us], [other.us]]
    assert race.digests == [rule.digest, other.digest]


@needs_models
def test_candidates_that_crash_hang_or_are_wrong_cost_only_themselves(runner, folders) -> None:
    crash = broken(folders, "crash", "*(volatile int *)0 = 1; return 0;")
    hang = broken(folders, "hang", 'for (;;) __asm__ volatile(""); return 0;')
    wrong = broken(folders, "wrong", "return 0;")
    batch = [crash, folders[1], hang, wrong]
    quick = ModelledRunner(TARGET, timeout=1.0)
    found = {each: measured.checked() for each, measured in quick.measure(folders[0], batch)}
    assert list(found) == batch
    assert found[folders[1]].us is not None
    assert [found[each].failure.partition(":")[0] for each in (crash, hang, wrong)] == [
        "crash",
        "timeout",
        "wrong",
    ]
    with pytest.raises(RuleError, match="access beside an array in kernel_crash"):
        list(quick.measure(crash, [folders[1]]))


@needs_models
def test_other_weights_are_not_taken_for_the_rules_outputs(folders) -> None:
    """The comparison sees one flipped bit of the weights."""
    place = folders[0].parent
    made, *specs = pickle.loads(file_of(folders[1]).read_bytes())
    dtype, shape, data = made[1]
    made[1] = dtype, shape, bytes((*data[:3], data[3] ^ 4, *data[4:]))
    (place / "flipped.pickle").write_bytes(pickle.dumps((made, *specs)))
    flipped = place / "c9"
    flipped.mkdir()
    (flipped / "arguments").write_text("flipped.pickle")
    message = {"task": str(place / "task.json"), "target": TARGET.name, "threads": 1}
    rule = space_of(binary_task(LAYER), TARGET).rule
    worker.build_object(message | {"decisions": rule.to_json(), "folder": str(flipped)})
    (flipped / "arguments").write_text("flipped.pickle")
    ((_, measured),) = ModelledRunner(TARGET).measure(folders[0], [flipped])
    assert measured.checked().failure.startswith("wrong")


def test_the_end_of_the_possible_that_gains_less_counts() -> None:
    runner = ModelledRunner(TARGET)
    rule, fewer, worse = Path("rule"), Path("fewer"), Path("worse")
    runner.costs = {
        rule: Cost(cycles=1500.0, l1_misses=75),
        fewer: Cost(cycles=1200.0, l1_misses=75),
        worse: Cost(cycles=1200.0, l1_misses=150),
    }
    assert waiting(runner.costs[rule]) == 3000.0
    assert runner.figure(rule, rule) == 1.0
    assert runner.figure(fewer, rule) == pytest.approx(2700 / 3000)
    assert runner.figure(worse, rule) == pytest.approx(4200 / 3000)


@needs_models
def test_a_network_is_tuned_and_computes_the_same_bits(tmp_path: Path) -> None:
    model, x = network()
    path = tmp_path / "cortex-a72.jsonl"
    options = {"target": "rpi4", "runner": "model", "records": path, "strategy": "random"}
    records = xnortvm.tune(model, example_inputs=x, trials=2, **options)
    assert {each.unit for each in records} == {records.summary.unit} != {""}
    assert [each.kind for each in records].count("best") == 3
    assert "µs are no measured times: modelled cycles at 1.5 GHz" in str(records.summary)
    assert "the whole network was not timed" in str(records.summary)
    again = xnortvm.tune(model, example_inputs=x, trials=2, **options)
    assert sum(row.new for row in again.summary.rows) == 0

    # Whatever won: what was tried beside the rule is applied, said, and changes no bit.
    for trial in [each for each in records if each.kind == "trial"][1::2]:
        records.append(replace(trial, kind="best", us=1.0, rule_us=2.0))
    compiled = xnortvm.compile(model, example_inputs=x, target="rpi4", records=records)
    assert {row.decided_by for row in compiled.report.layers} == {"tuned, modelled"}
    graph = lower_model(model, example_inputs=x)
    inputs = [x.numpy()]
    by_rule = emulated_network("rule", graph, inputs, TARGET, "r_")
    tuned = emulated_network("tuned", graph, inputs, TARGET, "t_", decide(chooser(records, TARGET)))
    both = library(by_rule.functions | tuned.functions, TARGET)
    ran = emulate([by_rule.program, tuned.program], both, TARGET)
    assert [each.complaint for each in ran] == ["", ""]
    for ours, theirs in zip(tuned.results, by_rule.results, strict=True):
        assert np.array_equal(ran[1].outputs[ours], ran[0].outputs[theirs])


def test_measured_times_go_before_modelled_ones(tmp_path: Path) -> None:
    from tests.tuning.test_records import HERE, KEY, record

    modelled = record(us=1.0, unit="modelled cycles at 1.5 GHz")
    records = Records()
    records.records = [record(), modelled]
    assert records.best(KEY, HERE) == record()
    assert records.all_best() == [record()]
    records.records = [modelled]
    assert chooser(records, HERE)(KEY) == (modelled.decisions, "tuned, modelled")


def test_trials_of_another_unit_are_not_gone_on_with() -> None:
    from tests.tuning.test_records import HERE, KEY, record

    modelled = record(kind="trial", unit="modelled cycles at 1.5 GHz")
    records = Records()
    records.records = [modelled]
    assert records.trials(KEY, HERE) == {}
    assert list(records.trials(KEY, HERE, modelled.unit)) == [modelled.decisions]


@pytest.mark.parametrize("target", ["llvm -mcpu=znver4", "armv7"])
def test_only_aarch64_cores_are_modelled(target: str) -> None:
    with pytest.raises(TargetError, match="cannot be modelled, only that of aarch64"):
        xnortvm.tune(None, target=target, runner="model")


def test_a_core_without_a_model_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(TargetError, match="cores are cortex-a53"):
        xnortvm.tune(None, target="llvm -mcpu=cortex-a73", runner="model")


def test_an_unknown_runner_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"did you mean 'model'"):
        xnortvm.tune(None, target="rpi4", runner="modell")


def test_a_model_and_boards_are_not_asked_together() -> None:
    with pytest.raises(ModelError, match="needs no boards"):
        xnortvm.tune(None, target="rpi4", runner="model", rpc="localhost:9190", key="rpi4")


@pytest.fixture
def without_models(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    needs.find_models.cache_clear()
    monkeypatch.setenv("LLVM_MCA", "/nowhere/llvm-mca")
    yield
    needs.find_models.cache_clear()


@pytest.mark.usefixtures("without_models")
def test_what_is_missing_is_named_in_one_sentence() -> None:
    with pytest.raises(MissingDependencyError, match=r"candidates cannot be modelled: .*LLVM_MCA"):
        xnortvm.tune(None, target="rpi4", runner="model")

# SPDX-License-Identifier: Apache-2.0
"""``bench --model-cost``: checked outputs, costs per layer and core, the estimate, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.tuning.networks import binary_task
from xnortvm.emulation import needs
from xnortvm.emulation.cores import core_of
from xnortvm.errors import VerificationError
from xnortvm.target import resolve
from xnortvm.tools import bench_cost, bench_layers, model_cost
from xnortvm.tools.layer_modules import EPILOGUES, Layer, binary_layer
from xnortvm.tools.model_cost import Subject, measure
from xnortvm.tuning.records import Machine, Record, Records
from xnortvm.tuning.space import space_of

SMALL = (Layer(3, 128, 6, 64, 1), Layer(1, 256, 0, 64, 1))
WITH_EPILOGUES = tuple(Layer(3, 64, 6, 64, 1, epilogue) for epilogue in EPILOGUES if epilogue)
FLOAT = (Layer(7, 3, 28, 16, 2), Layer(1, 64, 7, 64, 1), Layer(1, 64, 0, 40, 1))


@pytest.mark.usefixtures("emulation")
def test_common_layers_have_a_row_for_each_core(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_layers, "LAYERS", SMALL)
    monkeypatch.setattr(bench_layers, "WITH_EPILOGUES", WITH_EPILOGUES)
    monkeypatch.setattr(bench_layers, "FLOAT_LAYERS", FLOAT)
    command = ("bench", "--layers", "--model-cost", "cortex-a72,cortex-a53", "--json")
    ran = cli(*command)
    assert ran.status == 0
    assert list(ran.data["cores"]) == ["cortex-a72", "cortex-a53"]
    for name, core in ran.data["cores"].items():
        assert core["code"].endswith(f"-mcpu={name}")
        assert [row["layer"] for row in core["rows"]] == [
            *(str(layer) for layer in (*SMALL, *WITH_EPILOGUES)),
            *(f"float {layer}" for layer in FLOAT),
        ]
        for row in core["rows"]:
            assert row["instructions"] > 3 * 64
        *binary, stem, pointwise, dense = core["rows"]
        assert all(row["cycles_per_step"] > core["bound"] for row in binary)
        for row in (stem, pointwise, dense):
            assert row["cycles_per_mac"] > core["float_bound"]
        assert sum(row["share"] for row in core["rows"]) == pytest.approx(1, abs=1e-3)
    assert cli(*command).data == ran.data  # to the last digit


@pytest.mark.usefixtures("emulation")
def test_a_network_has_its_sum_shares_and_an_estimate(cli: Any) -> None:
    pytest.importorskip("torch")
    ran = cli(
        "bench", "lenet", "--model-cost", "cortex-a72,neoverse-n1", "--target", "rpi4", "--json"
    )
    assert ran.status == 0
    for core in ran.data["cores"].values():
        assert core["code"].endswith("-mcpu=cortex-a72")
        kinds = {row["kind"] for row in core["rows"]}
        assert {"binary", "float"} <= kinds
        assert core["total"]["cycles"] == pytest.approx(
            sum(row["cycles"] for row in core["rows"]), abs=len(core["rows"])
        )
        assert sum(core["shares"].values()) == pytest.approx(1, abs=1e-3)
        assert core["ms"] == pytest.approx(core["total"]["cycles"] / 1.5e6, abs=0.01)
        assert core["ms_stalled"] > core["ms"]
        assert core["published"] is None
    a72, n1 = ran.data["cores"].values()
    assert a72["total"]["instructions"] == n1["total"]["instructions"]  # the same code


def test_the_published_time_stands_beside_resnet18_on_its_own_core_only() -> None:
    cost = bench_cost.Cost(1000, 3e6, 10, 5, 0)
    parts = [bench_cost.Part("conv", "binary", 1, 128_000, cost)]

    def summary(model: str, core: str) -> str:
        args = type("Args", (), {"model": model, "clock_ghz": 2.0})
        return "\n".join(bench_cost._summary(bench_cost._of_core(parts, core_of(core), args)))

    needed = needs.missing_for_costs()
    if needed:
        pytest.skip(needed)
    text = summary("resnet18-bireal", "cortex-a72")
    assert "at 2.0 GHz 1.5 ms if no access waits" in text
    assert "85.4 ms, Larq Compute Engine, Bi-Real-18" in text
    assert "Larq" not in summary("resnet18-bireal", "cortex-a53")
    assert "Larq" not in summary("quicknet", "cortex-a72")


@pytest.mark.usefixtures("emulation")
def test_a_wrong_kernel_is_not_costed(monkeypatch: pytest.MonkeyPatch) -> None:
    built = binary_layer(SMALL[0])
    emulated = model_cost.emulate

    def off_by_one(*args: Any, **options: Any) -> Any:
        ran = emulated(*args, **options)
        for slot, values in ran[0].outputs.items():
            ran[0].outputs[slot] = values.copy()
            ran[0].outputs[slot].flat[-1] += np.float32(2.0)
        return ran

    monkeypatch.setattr(model_cost, "emulate", off_by_one)
    core = core_of("cortex-a72")
    subject = Subject(built.mod, built.inputs)
    with pytest.raises(VerificationError, match=r"3×3 128→64 6×6 is wrong"):
        measure({"layer": subject}, resolve("rpi4"), [core])


def test_missing_programs_are_named(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs.shutil, "which", lambda name: None)
    needs.find_models.cache_clear()
    monkeypatch.setattr(needs.Path, "glob", lambda self, pattern: iter(()))
    ran = cli("bench", "--layers", "--model-cost", "cortex-a72")
    needs.find_models.cache_clear()
    assert ran.status == 1
    assert "llvm-mca 19 or newer was not found" in ran.err
    assert "apt install" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model-cost", "cortex-a99"), "cores are cortex-a53"),
        (("--model-cost", "cortex-a72", "--target", "armv7"), "only that of aarch64"),
        (("--model-cost", "cortex-a72", "--clock-ghz", "0"), "is not a clock"),
        (("--model-cost", "cortex-a72", "--num-threads", "2"), "--num-threads is about timing"),
        (("--model-cost", "cortex-a72", "--plot", "x.svg"), "--plot is about timing"),
        (("compiled.xnor", "--model-cost", "cortex-a72"), "is compiled"),
    ],
)
def test_what_cannot_be_modelled_is_refused_in_one_sentence(
    cli: Any, arguments: tuple[str, ...], said: str
) -> None:
    ran = cli("bench", "--layers", *arguments)
    assert ran.status == 1
    assert said in ran.err


@pytest.mark.usefixtures("emulation")
def test_the_code_of_records_is_modelled_and_checked() -> None:
    layer, target, core = Layer(3, 64, 6, 64, 1), resolve("rpi4"), core_of("cortex-a72")
    made, task = binary_layer(layer), binary_task(layer)
    records = Records()
    slow = space_of(task, target).legal[-1]
    records.records = [Record("best", task.key, Machine.of(target), slow, us=1.0, rule_us=2.0)]
    subjects = {"layer": Subject(made.mod, made.inputs)}
    by_rule, recorded = (
        model_cost.total_of(measure(subjects, target, [core], records=each)["layer"], core)
        for each in (False, records)
    )
    assert recorded.instructions > by_rule.instructions

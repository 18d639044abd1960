# SPDX-License-Identifier: Apache-2.0
"""The limits of the machine: right results, plausible order, measured once and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xnortvm.errors import VerificationError
from xnortvm.schedules import isa_of
from xnortvm.target import resolve
from xnortvm.tools import limits, machine


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(limits, "SAMPLES", 1)
    monkeypatch.setattr(limits, "SAMPLE_SECONDS", 1e-6)
    monkeypatch.setattr(limits, "ROUNDS", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


MEASURED = machine.Machine(
    "a processor", "2026-01-01", "avx2", 3e9, {"L1": 1}, {"avx2": {"fp32": 1.0}}, {}, {"L1": 1.0}
)


@pytest.mark.parametrize(
    "isa", [isa.name for isa, _ in machine.instruction_sets()], ids=lambda name: str(name)
)
def test_every_step_computes_what_numpy_computes(isa: str) -> None:
    row, target = next(each for each in machine.instruction_sets() if each[0].name == isa)
    for name in limits.steps_of(row, target):
        assert limits.measure_step(name, row, target) > 0  # compares before it times


def test_a_kernel_with_another_result_is_not_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    here = resolve("llvm")
    step = limits.STEPS["byte"]
    wrong = step._replace(check=lambda x, w: [step.check(x, w)[0] + 1])
    monkeypatch.setitem(limits.STEPS, "byte", wrong)
    with pytest.raises(VerificationError, match="limit of byte"):
        limits.measure_step("byte", isa_of(here), here)


def test_dot_products_bandwidth_and_clock_are_measured() -> None:
    here = resolve("llvm")
    for name, dot in limits.DOTS.items():
        if dot.feature in here.features:
            assert limits.measure_dot(name, here) > 0
    assert limits.measure_read(8192, isa_of(here), here) > 0
    assert 1e8 < limits.measure_clock(here) < 1e10


def test_limits_are_measured_once_and_again_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(machine, "measure", lambda: calls.append(1) or MEASURED)
    assert machine.limits_of_this_machine() == MEASURED
    assert machine.limits_of_this_machine() == MEASURED
    assert len(calls) == 1
    machine.limits_of_this_machine(refresh=True)
    assert len(calls) == 2


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"cpu": 1}'])
def test_a_damaged_cache_is_replaced(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "measure", lambda: MEASURED)
    machine.cache_path().parent.mkdir(parents=True)
    machine.cache_path().write_text(content)
    assert machine.limits_of_this_machine() == MEASURED
    assert json.loads(machine.cache_path().read_text())["cpu"] == "a processor"


def test_a_cache_that_cannot_be_written_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "measure", lambda: MEASURED)
    (tmp_path / "xnortvm").write_text("a file where the folder should be")
    assert machine.limits_of_this_machine() == MEASURED


def test_another_processor_or_version_has_another_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine.cache_path()
    monkeypatch.setattr(machine, "cpu_name", lambda: "another processor")
    assert machine.cache_path() != before


def test_data_are_read_from_the_smallest_level_that_holds_them() -> None:
    here = machine.Machine(**{**MEASURED.to_json(), "caches": {"L1": 10, "L2": 100}})
    assert [here.level_of(size) for size in (1, 10, 11, 100, 101)] == [
        "L1",
        "L1",
        "L2",
        "L2",
        "memory",
    ]


def test_machine_prints_the_limits_with_units(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from xnortvm.tools import bench_machine

    measured = machine.Machine(**{**MEASURED.to_json(), "macs": {"avx2": {"byte": 4e11}}})
    monkeypatch.setattr(bench_machine, "limits_of_this_machine", lambda refresh: measured)
    ran = cli("bench", "--machine")
    assert ran.status == 0
    assert "TMAC/s are 10^12 multiply-accumulates a second" in ran.out
    assert "0.400" in ran.out
    assert cli("bench", "--machine", "--json").data == measured.to_json()

# SPDX-License-Identifier: Apache-2.0
"""Recorded costs of ARM kernels: what counts as worse, and what is said where nothing can run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xnortvm.emulation import needs
from xnortvm.emulation.cost import Cost
from xnortvm.tools import bench_check, cost_record
from xnortvm.tools.layer_modules import Layer, binary_layer

COST = Cost(instructions=1_000_000, cycles=500_000, l1_misses=1000, l2_misses=10, spills=3)


def _compare(**now: float) -> list[bench_check.Difference]:
    changed = {"k": replace(COST, **now)}
    return bench_check.compare({"k": COST}, changed, bench_check.COST_MARGINS)


@pytest.mark.parametrize(
    ("figure", "within", "beyond"),
    [
        ("instructions", 1_005_000, 1_005_100),
        ("cycles", 510_000, 510_100),
        ("l1_misses", 1250, 1251),
        ("spills", 3, 4),
    ],
)
def test_a_figure_may_grow_by_its_margin_and_no_more(figure: str, within: int, beyond: int) -> None:
    assert _compare(**{figure: within}) == []
    (found,) = _compare(**{figure: beyond})
    assert (found.figure, found.worse) == (figure, True)


def test_a_better_figure_is_told_and_is_not_worse() -> None:
    (found,) = _compare(cycles=400_000)
    assert (found.figure, found.worse) == ("cycles", False)


@pytest.mark.usefixtures("emulation")
def test_costs_are_recorded_and_read_again(tmp_path: Path) -> None:
    layer = Layer(1, 128, 0, 64, 1)
    found = cost_record.costs_of({"dense": lambda: binary_layer(layer).mod}, ("cortex-a53",))
    assert list(found) == ["cortex-a53 · dense"]
    assert found["cortex-a53 · dense"].cycles > 100
    path = tmp_path / "record.json"
    cost_record.write(found, path)
    assert cost_record.read(path) == (found, needs.find_models().version)
    assert path.read_text().count("\n") == 7  # a line for each kernel, so that changes are seen


def test_every_modelled_kernel_is_recorded_for_every_core() -> None:
    recorded, _ = cost_record.read()
    assert set(recorded) == {
        f"{core} · {kernel}"
        for core in cost_record.CORES
        for kernel in (*bench_check.KERNELS, *bench_check.MODELLED_ONLY)
        if kernel not in bench_check.UNMODELLED
    }


@pytest.fixture
def _no_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_check, "_counts", lambda args: 0)


@pytest.mark.usefixtures("_no_counts")
def test_without_an_emulator_it_says_so_and_succeeds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(needs, "missing_for_costs", lambda: "qemu-aarch64 is not installed")
    assert bench_check.main([]) == 0
    said = capsys.readouterr().out
    assert said == "modelled costs were not compared: qemu-aarch64 is not installed\n"


@pytest.mark.usefixtures("_no_counts")
def test_a_worse_kernel_is_named_and_makes_the_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _pretend(monkeypatch, tmp_path, "19.1.7", replace(COST, cycles=600_000))
    assert bench_check.main([]) == 1
    said = capsys.readouterr().out
    assert "modelled cycles" in said
    assert "worse, +20.0%" in said
    assert "1 modelled kernels: 1 figures got worse, 0 better" in said


@pytest.mark.usefixtures("_no_counts")
def test_cycles_of_another_llvm_are_not_compared_and_the_rest_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _pretend(monkeypatch, tmp_path, "21.1.0", replace(COST, cycles=600_000, spills=4))
    assert bench_check.main([]) == 1
    said = capsys.readouterr().out
    assert "modelled cycles were not compared: they are of LLVM 19.1.7, this is 21.1.0" in said
    assert "1 figures got worse" in said


def _pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, llvm: str, now: Cost) -> None:
    """Let the record hold COST by LLVM 19.1.7, and the kernels cost something else now."""
    models: list[Any] = [needs.Models("mca", "mc", "19.1.7")]
    monkeypatch.setattr(needs, "missing_for_costs", lambda: None)
    monkeypatch.setattr(needs, "find_models", lambda: models[0])
    monkeypatch.setattr(cost_record, "RECORD", folder / "record.json")
    cost_record.write({"k": COST})
    models[0] = needs.Models("mca", "mc", llvm)
    monkeypatch.setattr(cost_record, "costs_of", lambda kernels: {"k": now})

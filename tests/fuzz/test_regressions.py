# SPDX-License-Identifier: Apache-2.0
"""Networks that once came out wrong, as fuzzing saved them, and what fuzzing itself promises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.fuzz.build import build
from tests.fuzz.compare import MismatchError, Passed, _check_report, check
from tests.fuzz.spec import Spec, Step
from xnortvm.report import LayerRow, Report

SPECS = sorted((Path(__file__).parent / "regressions").glob("*.json"))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_once_wrong_now_right(path: Path) -> None:
    outcome = check(Spec.load(path))
    assert isinstance(outcome, Passed), outcome


def _layer(**args: object) -> Step:
    return Step("linear", 0, {"sign": "sign", "weight": "Sign", "outputs": 4} | _PLAIN | args)


_PLAIN = {"bias": False, "before": [], "after": [], "flatten": "after", "rows": False}


def test_a_spec_builds_the_same_network_every_time() -> None:
    spec = Spec([[2, 8]], [_layer(after=["bn", "prelu"]), _layer()], seed=3)
    again = Spec.from_json(spec.to_json())
    assert again == spec
    first, second = build(spec)[0], build(again)[0]
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert torch.equal(first(torch.ones(2, 8))[0], second(torch.ones(2, 8))[0])


def test_steps_that_fit_nothing_are_left_out() -> None:
    _, state = build(Spec([[2, 8]], [Step("downsample", 0, {"outputs": 3}), _layer()]))
    assert [step.op for step in state.applied] == ["linear"]


def test_a_layer_that_should_be_binary_and_is_not_is_a_mismatch() -> None:
    _, state = build(Spec([[2, 8]], [_layer()]))
    row = LayerRow("layers.0", "dense", binary=False, reason="its weights are real")
    with pytest.raises(
        MismatchError, match=r"0 layers are binary instead of 1: layers\.0: its wei"
    ):
        _check_report(Report(layers=[row]), state)


def test_a_layer_without_a_reason_is_a_mismatch() -> None:
    _, state = build(Spec([[2, 8]], [_layer(weight="Real")]))
    with pytest.raises(MismatchError, match=r"float without a reason: layers\.0"):
        _check_report(Report(layers=[LayerRow("layers.0", "dense", binary=False)]), state)


def test_a_check_that_fails_is_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("cannot compare")

    monkeypatch.setattr("xnortvm.verify.source.check_kernels", broken)
    with pytest.raises(MismatchError, match=r"not verified.*ValueError: cannot compare"):
        check(Spec([[2, 8]], [_layer()], verify=True))

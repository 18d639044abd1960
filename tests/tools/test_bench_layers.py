# SPDX-License-Identifier: Apache-2.0
"""The kernel benchmark checks what it times, and knows the machine's limit."""

from __future__ import annotations

import json

import pytest

from xnortvm.errors import VerificationError
from xnortvm.ops import reference
from xnortvm.tools import bench_layers, bench_limit

SMALL = (bench_layers.Layer(3, 64, 6, 64, 2), bench_layers.Layer(1, 4096, 0, 640, 1))


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch) -> None:
    monkeypatch.setattr(bench_limit, "SAMPLES", 3)
    monkeypatch.setattr(bench_limit, "SAMPLE_SECONDS", 1e-5)


def test_each_layer_has_its_speed_and_its_share_of_the_limit() -> None:
    rows = list(bench_layers.rows(layers=SMALL))
    assert [row["layer"] for row in rows] == ["3×3 64→64 6×6 s2", "dense 4096→640"]
    for row in rows:
        assert row["microseconds"] > 0
        assert row["limit TBMAC/s"] > 0


def test_does_not_time_a_kernel_that_is_wrong(monkeypatch) -> None:
    right = reference.bdense
    monkeypatch.setattr(reference, "bdense", lambda *a, **k: right(*a, **k) + 2)
    with pytest.raises(VerificationError, match="dense 4096→640"):
        list(bench_layers.rows(layers=SMALL[1:]))


def test_json_is_an_array_of_rows(monkeypatch, capsys) -> None:
    rows = [{"layer": "x", "microseconds": 1.0}]
    monkeypatch.setattr(bench_layers, "rows", lambda target: iter(rows))
    assert bench_layers.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows

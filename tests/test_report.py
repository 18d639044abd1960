# SPDX-License-Identifier: Apache-2.0
"""The report says everything, as text and as JSON."""

from __future__ import annotations

import json

from xnortvm.report import LayerRow, Report


def _report() -> Report:
    rows = [
        LayerRow("stem", "conv2d", False, "3×3 3→8", 2000, 864, 864, reason="its input is real"),
        LayerRow("conv", "conv2d", True, "3×3 8→8", 3_500_000, 2304, 300, "1", "32+1", "k", "rule"),
    ]
    rows[0].hint, rows[1].note = "apply sign", "computed twice"
    return Report("llvm", "avx2", 2, rows, ["verified"], 4096, 1 << 20)


def test_json_round_trip() -> None:
    report = _report()
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_totals() -> None:
    totals = _report().to_json()["totals"]
    assert totals == {
        "binary_layers": 1,
        "float_layers": 1,
        "binary_macs": 3_500_000,
        "float_macs": 2000,
        "bytes_before": 3168,
        "bytes_after": 1164,
        "bytes_activations": 4096,
        "bytes_library": 1 << 20,
    }


def test_text_names_every_layer_reason_hint_and_note() -> None:
    text = str(_report())
    assert "avx2 · 2 threads" in text
    assert "stem: float because its input is real — apply sign" in text
    assert "conv: computed twice" in text
    assert "note: verified" in text
    assert "3.5 M binary and 2 k float MACs, weights 3.09 KiB → 1.14 KiB, library 1 MiB" in text


def test_a_model_without_binary_layers_is_an_answer() -> None:
    report = Report(layers=[LayerRow("fc", "dense", False)])
    assert report.summary() == "no binary layers in 1 convolutions and dense layers"
    assert report.row("fc") is report.rejects[0]
    assert report.row("other") is None

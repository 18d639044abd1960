# SPDX-License-Identifier: Apache-2.0
"""The binary body of a network stands beside the same body in fp16."""

from __future__ import annotations

from xnortvm.tools.gpu_bundle.cases import cases
from xnortvm.tools.gpu_bundle.parts.network import body_of
from xnortvm.tools.gpu_bundle.parts.table import good, render

ROW = {
    "target": "h200",
    "batch": 256,
    "fits": None,
    "largest": 0.7,
    "call_seconds": 2e-3,
    "kernel_seconds": 1.9e-3,
    "binary_seconds": 5e-4,
    "body_seconds": 6e-4,
    "images_per_second": 1.3e5,
}


def result(**parts: dict[str, float]) -> dict:
    torch = {
        f"torch:{name}": {"status": "done", "rows": {"fp16 batch 256": {"body": body}}}
        for name, body in parts.items()
    }
    return {
        "date": "2026-01-01",
        "chip": None,
        "nvidia_smi": {},
        "host": {"python": "3.12"},
        "bundle": {"versions": {}, "left_out": {}},
        "parts": {"network": {"status": "done", "rows": {"net": ROW}}, **torch},
    }


def test_the_body_is_what_lies_between_the_first_and_the_last_binary_layer() -> None:
    calls = ["stem", "pool", "conv", "shortcut", "conv2", "mean", "dense"]
    assert body_of(calls, [call.startswith("conv") for call in calls]) == calls[2:5]
    assert body_of(calls, [False] * len(calls)) == []


def test_the_faster_of_eager_and_compiled_is_what_it_is_compared_with() -> None:
    text = render(result(network={"seconds": 1.2e-3}, compiled={"seconds": 1.1e-3}))
    assert "| net | h200 | not compared | 2,000 | 1,900 | 500 | 600 | 1,100 compiled |" in text
    text = render(result(network={"seconds": 1.2e-3}, compiled={"error": "no triton"}))
    assert "| 600 | 1,200 eager |" in text
    assert "| 600 | - |" in render(result())
    assert good(result())


def test_large_batches_are_timed_with_a_trunk_in_fp16() -> None:
    found = [case for case in cases() if case.options.get("trunk") == "fp16"]
    assert [case.batch for case in found] == [64, 256]
    assert not any(case.compared for case in found)

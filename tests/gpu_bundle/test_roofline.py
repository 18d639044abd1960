# SPDX-License-Identifier: Apache-2.0
"""The roofline of GPUs: from data sheets, and from what the bundle measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xnortvm.tools.gpu_bundle.layers import LAYERS, Layer
from xnortvm.tools.gpu_bundle.parts import table
from xnortvm.tools.gpu_bundle.roofline import CHIPS, floors, main, measured


def _result() -> dict[str, Any]:
    ceilings = {
        "wgmma_b1_64x256x256": {"rate": 1e16, "checked": True, "unit": "op/s", "hertz": 1.7e9},
        "mma_b1_and_16x8x256": {"rate": 2e16, "checked": False, "unit": "op/s", "why": "it is"},
        "xnor_csa7": {"rate": 3e14, "checked": True, "unit": "op/s", "hertz": 1.6e9},
        "mma_s8_16x8x32": {"skipped": "this chip has no such instruction"},
    }
    memory = {
        "copy_memory": {"rate": 4e12, "checked": True, "unit": "byte/s"},
        "launch_in_graph": {"rate": 1.2e-6, "checked": True, "unit": "s"},
    }
    layer = {
        "target": "cuda -arch=sm_90a",
        "arch": "sm_90a",
        "family": "times",
        "layer": LAYERS[0].name,
        "batch": 8,
        "macs": LAYERS[0].macs(8),
        "seconds": 1e-6,
    }
    chip = {"name": "H200", "sms": 132, "clock_khz": 1980000, "major": 9, "cuda_of_driver": "13.0"}
    return {
        "date": "2026-12-01T00:00:00+00:00",
        "chip": chip,
        "nvidia_smi": {},
        "host": {"python": "3.12"},
        "bundle": {"versions": {}, "left_out": {"sm_90a/x": "it was refused"}},
        "parts": {
            "ceilings:mma": {"status": "done", "rows": ceilings},
            "ceilings:memory": {"status": "done", "rows": memory},
            "times": {"status": "done", "rows": {"one": layer}},
            "network": {"status": "failed", "why": "its process was ended by SIGSEGV; x"},
        },
    }


def test_layers_are_those_of_resnet18() -> None:
    assert sum(layer.copies for layer in LAYERS) == 16
    assert sum(layer.copies * layer.macs(1) for layer in LAYERS) == 1_676_279_808


def test_nominal_rates_are_those_of_the_data_sheets() -> None:
    assert CHIPS["a100"].mma == pytest.approx(4992e12, rel=0.01)
    assert CHIPS["a100"].fp16 == pytest.approx(312e12, rel=0.01)
    assert CHIPS["h200"].fp16 == pytest.approx(989e12, rel=0.01)
    assert CHIPS["h200"].int8 == pytest.approx(1979e12, rel=0.01)
    assert CHIPS["t4"].int8 == pytest.approx(130e12, rel=0.01)
    assert CHIPS["b200"].mma == 0


def test_popc_is_slower_than_fp16_on_hopper_and_the_roofline_says_so() -> None:
    row = floors(LAYERS[4], 256, CHIPS["h200"])
    assert row.popc is not None
    assert row.fp16 is not None
    assert row.popc > 3 * row.fp16


def test_a_layer_takes_as_long_as_its_slowest_limit() -> None:
    row = floors(LAYERS[0], 256, CHIPS["h200"])
    assert row.least == row.epilogue
    assert row.least_with_residual == row.residual
    # Sums over 64 · 9 = 576 bits are padded to 768, the next multiple of 256.
    assert row.mma == pytest.approx(2 * LAYERS[0].macs(256) * 768 / 576 / CHIPS["h200"].mma)


def test_a_chip_without_binary_tensor_cores_counts_bits() -> None:
    row = floors(Layer(1, 512, 512, 7), 64, CHIPS["b200"])
    assert row.mma is None
    assert row.least == row.popc


def test_measured_rates_replace_estimates_where_the_work_was_done() -> None:
    chip = measured(_result())
    assert chip.mma == 1e16  # the faster one computed something else
    assert (chip.popc, chip.memory, chip.launch) == (3e14, 4e12, 1.2e-6)
    assert (chip.int8, chip.hertz) == (0.0, 1.7e9)
    assert chip.source == "measured 2026-12-01"
    assert floors(LAYERS[0], 8, chip).int8 is None


def test_command_prints_a_table_for_each_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps(_result()))
    assert main(["--result", str(file), "--batch", "1", "64"]) == 0
    text = capsys.readouterr().out
    assert "H200, measured 2026-12-01" in text
    assert text.count("| all | 16 |") == 2


def test_a_result_without_a_gpu_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps({**_result(), "chip": None}))
    with pytest.raises(SystemExit):
        main(["--result", str(file)])
    assert "made without a GPU" in capsys.readouterr().err


def test_table_gives_shares_of_the_ceiling_that_was_right() -> None:
    text = table.render(_result())
    share = 100 * 2 * LAYERS[0].macs(8) / 1e-6 / 1e16
    assert f"{share:.0f} %" in text
    assert "The ceiling is that of wgmma_b1_64x256x256" in text
    assert "WRONG: it is" in text
    assert "this chip has no such instruction" in text
    assert "network failed: its process was ended by SIGSEGV" in text
    assert "* sm_90a/x: it was refused" in text


def test_a_result_is_good_when_nothing_failed_and_all_was_right() -> None:
    result = _result()
    assert not table.good(result)
    del result["parts"]["network"]
    assert not table.good(result)
    del result["parts"]["ceilings:mma"]["rows"]["mma_b1_and_16x8x256"]
    assert table.good(result)

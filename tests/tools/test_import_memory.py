# SPDX-License-Identifier: Apache-2.0
"""Importing a model takes less than four times the memory of its weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's /proc"
)

WIDE = """
import sys, torch
from torch import nn

class Binary(nn.Linear):
    def forward(self, x):
        weight = self.weight.sign() * self.weight.abs().mean(1, keepdim=True)
        return nn.functional.linear(torch.sign(x), weight, self.bias)

model = nn.Sequential(*(m for _ in range(4) for m in (nn.BatchNorm1d(2048), Binary(2048, 2048))))
x = torch.randn(2, 2048)
torch.onnx.export(model.eval(), (x,), sys.argv[1], dynamo=False, opset_version=17)
"""


def measured(*arguments: object) -> dict[str, float]:
    """Import in a process of its own."""
    command = [sys.executable, "-m", "xnortvm.tools.import_memory", *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


def test_binary_resnet18_is_imported_within_four_times_its_size() -> None:
    found = measured("resnet18", "--input-size", 64)
    assert 44 < found["model_mib"] < 46
    assert found["times_the_model"] < 4, found


def test_a_wide_onnx_model_is_imported_within_four_times_its_size(tmp_path: Path) -> None:
    path = tmp_path / "wide.onnx"
    subprocess.run([sys.executable, "-c", WIDE, path], capture_output=True, check=True)
    found = measured(path)
    assert 63 < found["model_mib"] < 66
    assert found["times_the_model"] < 4, found

# SPDX-License-Identifier: Apache-2.0
"""Ways from a torch module to what the compiler reads."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.frontend.nets import quiet

Inputs = tuple[Tensor, ...]


def _export(model: nn.Module, inputs: Inputs, strict: bool) -> Any:
    with quiet():
        return torch.export.export(model, inputs, strict=strict)


def _decomposed(model: nn.Module, inputs: Inputs, _: int) -> Any:
    with quiet():
        return torch.export.export(model, inputs).run_decompositions()


def _onnx(model: nn.Module, inputs: Inputs, opset: int, dynamo: bool) -> Any:
    import onnx

    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "network.onnx"
        torch.onnx.export(model, inputs, path, dynamo=dynamo, opset_version=opset)
        return onnx.load(path)


WAYS: dict[str, Callable[[nn.Module, Inputs, int], Any]] = {
    "torch": lambda model, inputs, _: model,
    "strict": lambda model, inputs, _: _export(model, inputs, strict=True),
    "decomposed": _decomposed,
    "onnx-legacy": lambda model, inputs, opset: _onnx(model, inputs, opset, dynamo=False),
    "onnx-dynamo": lambda model, inputs, opset: _onnx(model, inputs, opset, dynamo=True),
}
"""Name to what makes the model that `xnortvm.compile` gets."""

OPSETS = {"onnx-legacy": [17, 13, 14, 15, 16, 18, 19, 20], "onnx-dynamo": [20, 18, 21, 22, 23]}
"""Versions that each exporter writes."""

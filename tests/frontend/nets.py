# SPDX-License-Identifier: Apache-2.0
"""Networks and ways to import them that the tests of the front ends share."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from xnortvm._tvm import relax, runtime, tvm
from xnortvm.frontend import Imported, import_model
from xnortvm.graph.dataflow import Graph, is_const, op_name


class Named(nn.Module):
    """Runs each of its modules on the same input and returns their results by name.

    One import and one build then serve a whole table of cases.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.rows = nn.ModuleDict(modules)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: module(x) for name, module in self.rows.items()}


class Function(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(*inputs)


class Block(nn.Module):
    """Binary residual block: batch norm, sign, convolution, scale, PReLU, sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.alpha = nn.Parameter(torch.randn(channels, 1, 1))
        self.act = nn.PReLU(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.conv.weight.sign()
        y = nn.functional.conv2d(self.bn(x).sign(), weight, padding=1) * self.alpha
        return self.act(y) + x


class Net(nn.Module):
    """A small network with everything that a binary one has around its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.layer1 = nn.Sequential(Block(8), nn.Sequential(Block(8), nn.Dropout(0.5)))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer1(self.pool(torch.relu(self.stem(x))))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norms statistics and scales that are not the trivial ones; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            for tensor in (part.weight, part.bias, part.running_mean):
                tensor.data = torch.randn(tensor.shape, generator=generator)
            part.running_var = torch.rand(part.running_var.shape, generator=generator) + 0.5
    return module.eval()


def net() -> tuple[nn.Module, torch.Tensor]:
    """Make `Net` and an input for it."""
    torch.manual_seed(1)
    return randomised(Net()), torch.randn(2, 3, 15, 11)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what PyTorch's exporters print, log and warn."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def export(module: nn.Module, x: torch.Tensor, **options: Any) -> torch.export.ExportedProgram:
    """Run torch.export."""
    with quiet():
        return torch.export.export(module, (x,), **options)


def onnx_file(module: nn.Module, x: torch.Tensor, path: Path, **options: Any) -> Path:
    """Export to ONNX, by the older exporter unless dynamo=True."""
    options.setdefault("dynamo", False)
    with quiet():
        torch.onnx.export(module, (x,), path, **options)
    return path


WAYS: dict[str, Callable[[nn.Module, torch.Tensor, Path], Imported]] = {
    "torch": lambda module, x, folder: import_model(module, (x,)),
    "onnx-legacy": lambda module, x, folder: import_model(
        onnx_file(module, x, folder / "legacy.onnx", opset_version=17)
    ),
    "onnx-dynamo": lambda module, x, folder: import_model(
        onnx_file(module, x, folder / "dynamo.onnx", dynamo=True)
    ),
}
"""Ways into the compiler that differ in the graphs they give."""


def outputs(imported: Imported, *inputs: Any) -> list[np.ndarray]:
    """Build the module with TVM's default pipeline and run it."""
    executable = relax.build(imported.mod, "llvm")
    machine = relax.VirtualMachine(executable, tvm.cpu())
    result = machine["main"](*(runtime.tensor(np.asarray(value)) for value in inputs))
    tensors = [result] if isinstance(result, runtime.Tensor) else list(result)
    return [tensor.numpy() for tensor in tensors]


def assert_same(found: Any, expected: Any) -> None:
    """Compare by the float bound: 1e-5 of the largest element."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)


def same(found: Any, expected: Any) -> bool:
    """Tell whether `assert_same` would pass."""
    try:
        assert_same(found, expected)
    except AssertionError:
        return False
    return True


def calls(imported: Imported, *operators: str) -> list[Any]:
    """List the calls of these operators (all without names) in order."""
    names = {f"relax.{name}" for name in operators}
    return [
        call
        for _, call in Graph(imported.mod["main"]).calls()
        if not names or op_name(call) in names
    ]


def operators(imported: Imported) -> list[str]:
    """List the names of the operators in order, without "relax."."""
    return [op_name(call).removeprefix("relax.") for call in calls(imported)]


def assert_same_graph(left: Imported, right: Imported) -> None:
    """Compare operators and constants, so that one build can stand for several imports."""
    assert operators(left) == operators(right)
    for a, b in zip(constants(left), constants(right), strict=True):
        np.testing.assert_array_equal(a, b)


def constants(imported: Imported) -> list[np.ndarray]:
    """List all constants that calls read."""
    return [arg.value.numpy() for call in calls(imported) for arg in call.args if is_const(arg)]

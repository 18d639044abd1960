# SPDX-License-Identifier: Apache-2.0
"""PyTorch eager against the compiler: the lowered graph, evaluated without building it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from tests.relax_reference import evaluate
from xnortvm import pipeline
from xnortvm.frontend import import_model
from xnortvm.patterns import ZeroPolicy
from xnortvm.report import Report


class Lowered(NamedTuple):
    """A model after every target-independent phase, and what both sides compute."""

    mod: Any
    report: Report
    outputs: list[Any]
    expected: list[Any]


def lower(model: torch.nn.Module, *inputs: torch.Tensor, accept_zeros: bool = False) -> Lowered:
    """Lower a model and run it, on the compiler's side in NumPy."""
    model = model.eval()
    report = Report()
    imported = import_model(model, inputs)
    phases = pipeline.graph_phases(report, ZeroPolicy(accept_zeros))
    mod = pipeline.run(imported.mod, phases)
    outputs = evaluate(mod, *[x.numpy() for x in inputs])
    with torch.no_grad():
        result = model(*inputs)
    results = result if isinstance(result, tuple) else (result,)
    return Lowered(mod, report, outputs, [each.numpy() for each in results])


def assert_same(
    model: torch.nn.Module, *inputs: torch.Tensor, binary: int, exact: bool = False
) -> Lowered:
    """Check the outputs by the float bound and the number of binary layers."""
    lowered = lower(model, *inputs)
    for output, expected in zip(lowered.outputs, lowered.expected, strict=True):
        if exact:
            np.testing.assert_array_equal(output, expected)
        bound = 1e-5 * max(np.abs(expected).max(), 1e-30)
        np.testing.assert_allclose(output, expected, rtol=0, atol=bound)
    assert lowered.report.num_binary_ops == binary, str(lowered.report)
    return lowered


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give batch norms and PReLUs parameters that are neither neutral nor all positive."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            layer.running_mean.normal_(generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
            torch.nn.init.normal_(layer.weight, generator=generator)
            torch.nn.init.normal_(layer.bias, generator=generator)
        if isinstance(layer, torch.nn.PReLU):
            torch.nn.init.normal_(layer.weight, generator=generator)
    return model

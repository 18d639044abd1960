# SPDX-License-Identifier: Apache-2.0
"""`compile`, `explain` and `verify` on one small network, built for this machine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import xnortvm
from tests.differential import randomize
from xnortvm.errors import ModelError, TargetError


class Small(nn.Module):
    """stem → sign → conv·Γ → PReLU → batch norm → sign (behind a ReLU) → conv → linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.one = nn.Parameter(torch.randn(8, 8, 3, 3))
        self.two = nn.Parameter(torch.randn(8, 8, 3, 3))
        self.scale, self.rows = nn.Parameter(torch.randn(8, 1, 1)), nn.Parameter(torch.randn(6, 1))
        self.after, self.slopes = nn.BatchNorm2d(8), nn.PReLU(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        x = self.norm(self.stem(x))
        y = nn.functional.conv2d(torch.sign(x), self.one.sign(), padding=1)
        y = self.after(self.slopes(y * self.scale * self.rows)) + x
        y = nn.functional.conv2d(torch.sign(torch.relu(y)), self.two.sign(), padding=1)
        return self.head(y.mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return randomize(Small()).eval()


X = torch.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 8, 8).sin()


@pytest.fixture(scope="module")
def compiled(model: nn.Module) -> Any:
    return xnortvm.compile(model, example_inputs=X)


def test_compiled_network_equals_eager(model: nn.Module, compiled: Any) -> None:
    expected = model(X).detach()
    assert (compiled(X) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_verify_reports_what_it_checked(compiled: Any) -> None:
    notes = " ".join(compiled.report.notes)
    assert "integers of 2 binary layers are exact" in notes
    assert "outputs agree with PyTorch" in notes


def test_explain_says_the_same_without_compiling(model: nn.Module, compiled: Any) -> None:
    explained = xnortvm.explain(model, example_inputs=X)
    built = {"kernel", "schedule", "decided_by", "bits_out"}
    for mine, theirs in zip(explained.layers, compiled.report.layers, strict=True):
        for key, value in vars(mine).items():
            assert key in built or value == getattr(theirs, key), key
    assert explained.num_binary_ops == 2
    assert len(explained.rejects) == 2
    assert all(row.reason for row in explained.rejects)


def test_does_not_verify_for_another_machine(model: nn.Module) -> None:
    with pytest.raises(TargetError, match="not this machine"):
        xnortvm.compile(model, target="llvm -mcpu=cortex-a72", example_inputs=X, verify=True)


def test_does_not_take_other_values_of_sign_zero(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="sign_zero"):
        xnortvm.explain(model, example_inputs=X, sign_zero="-1")


def test_rows_count_the_macs_of_grouped_and_transposed_convolutions() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, 2, 1, groups=2), nn.ConvTranspose2d(8, 6, (2, 3), 2, groups=2)
    ).eval()
    first, *second = xnortvm.explain(model, example_inputs=torch.zeros(2, 4, 8, 8)).layers
    assert first.macs == 2 * 4 * 4 * 8 * (3 * 3 * 2)
    assert first.shape == "3×3 4→8 /2 on 4×4 groups 2"
    # one convolution for each remainder of row and column, 4 × 5 outputs each
    assert [row.name for row in second] == ["1[0,0]", "1[0,1]", "1[1,0]", "1[1,1]"]
    assert sum(row.macs for row in second) == 2 * 4 * 5 * 6 * (2 * 3 * 4)
    assert second[0].shape == "1×2 8→6 /1 on 4×5 groups 2"

# SPDX-License-Identifier: Apache-2.0
"""Networks as people build them: equal to PyTorch eager, binary where they should be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.differential import assert_same, lower
from tests.idioms.structures import CASES, Case, Network, conv


@pytest.mark.parametrize("name", CASES)
def test_equals_eager(name: str) -> None:
    made = CASES[name]
    torch.manual_seed(0)
    assert_same(Network(made), torch.randn(made.shape), binary=made.binary)


def test_several_inputs_and_outputs() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = conv(), conv()

        def forward(self, x: Any, y: Any) -> Any:
            return self.left(x), self.right(y) + x, x

    torch.manual_seed(0)
    assert_same(Both(), torch.randn(3, 8, 5, 5), torch.randn(3, 8, 5, 5), binary=2)


def test_accepted_zeros_are_computed_once() -> None:
    torch.manual_seed(0)
    made = Case(lambda c, x: c(F.avg_pool2d(F.relu(x), 2)), 1, {"c": conv}, ())
    model, x = Network(made), torch.randn(1, 8, 6, 6)
    exact, accepted = lower(model, x), lower(model, x, accept_zeros=True)
    assert exact.report.layers[0].bits_in == "2"
    assert "ReLU" in exact.report.layers[0].note
    assert accepted.report.layers[0].bits_in == "1"
    assert 'sign_zero="+1"' in accepted.report.layers[0].note


def test_does_not_lower_float64() -> None:
    torch.manual_seed(0)
    made = Case(lambda c, x: c(x), 0, {"c": conv}, ())
    lowered = lower(Network(made).double(), torch.randn(1, 8, 4, 4).double())
    assert lowered.report.num_binary_ops == 0
    assert "float64" in lowered.report.layers[0].reason

# SPDX-License-Identifier: Apache-2.0
"""However a model computes its weights from its parameters: they arrive as constants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.frontend.nets import WAYS, Function, Named, assert_same, calls, outputs
from tests.idioms.weights import WEIGHTS
from xnortvm.errors import ModelError
from xnortvm.frontend import import_model
from xnortvm.frontend.names import layer_name
from xnortvm.graph.dataflow import is_const

SHAPE = (6, 4, 3, 3)


class Conv(nn.Module):
    """A convolution whose weight is computed in forward."""

    def __init__(self, row: str) -> None:
        super().__init__()
        self.weight = WEIGHTS[row](torch.randn(*SHAPE))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight(), padding=1)


@pytest.fixture(scope="module", params=list(WAYS))
def imported_rows(request, tmp_path_factory):
    """Every row imported together: module, results of the import and of eager PyTorch by row."""
    torch.manual_seed(3)
    module = Named({row: Conv(row) for row in WEIGHTS}).eval()
    x = torch.randn(1, 4, 5, 6)
    imported = WAYS[request.param](module, x, tmp_path_factory.mktemp("weights"))
    with torch.no_grad():
        expected = module(x)
    weights = {
        layer_name(call).rpartition(".")[2]: call.args[1] for call in calls(imported, "nn.conv2d")
    }
    found = dict(zip(expected, outputs(imported, x), strict=True))
    return module, weights, found, expected


@pytest.mark.parametrize("row", WEIGHTS)
def test_weights_computed_from_parameters_are_constants(imported_rows, row):
    _, weights, _, _ = imported_rows
    assert is_const(weights[row])


@pytest.mark.parametrize("row", [name for name, cls in WEIGHTS.items() if cls.two_valued])
def test_binarised_weights_have_two_values_per_filter(imported_rows, row):
    _, weights, _, _ = imported_rows
    value = np.abs(weights[row].value.numpy()).reshape(6, -1)
    assert (np.ptp(value, axis=1) <= 1e-4 * value.max(axis=1)).all()


@pytest.mark.parametrize("row", WEIGHTS)
def test_layer_computes_what_eager_computes(imported_rows, row):
    _, _, found, expected = imported_rows
    assert_same(found[row], expected[row])


class SharedWeight(Conv):
    """Computes the same weight for two convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(x.sign())


def test_weights_computed_twice_are_one_constant():
    imported = import_model(SharedWeight("Sign"), torch.randn(1, 4, 5, 6))
    first, second = calls(imported, "nn.conv2d")
    assert first.args[1].same_as(second.args[1])


class Chosen(nn.Module):
    """Weights mixed by a gate that looks at the input."""

    def __init__(self) -> None:
        super().__init__()
        self.bank = nn.Parameter(torch.randn(3, 6 * 36))
        self.gate = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.gate(x.mean((0, 2, 3))) @ self.bank).view(SHAPE).sign()
        return functional.conv2d(x, weight)


def test_does_not_fold_weights_that_the_input_chooses():
    x = torch.randn(1, 4, 5, 5)
    imported = import_model(Chosen(), x)
    (conv,) = calls(imported, "nn.conv2d")
    assert not is_const(conv.args[1])


def test_random_weights_are_refused_rather_than_frozen():
    def forward(x):
        return functional.linear(x, torch.randn(3, 4).sign())

    with pytest.raises(ModelError, match=r"randn.*draws random numbers"):
        import_model(Function(forward), torch.ones(1, 4))

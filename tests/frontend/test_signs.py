# SPDX-License-Identifier: Apache-2.0
"""Every spelling of sign keeps its values, zeros included, and arrives as a few operators."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.frontend.nets import WAYS, Function, Named, assert_same, operators, outputs
from tests.idioms.signs import SIGNS
from xnortvm.frontend import import_model

EXTRA = {
    "learned threshold": lambda x: torch.sign(
        x + torch.tensor([[[0.1]], [[-0.2]], [[0.0]], [[1]]])
    ),
    "after max pool": lambda x: torch.sign(nn.functional.max_pool2d(x, 2)),
    "after average pool": lambda x: torch.sign(nn.functional.avg_pool2d(x, 2)),
}
ROWS = {name: sign.fn for name, sign in SIGNS.items() if name != "copysign"} | EXTRA

ARRIVE = {
    "mask assigned": ["sign", "equal", "where"],
    "masked fill": ["less", "where"],
    "twice a bool": ["greater_equal", "astype", "multiply", "subtract"],
    "units": ["sign"],
    "where greater": ["greater", "where"],
}
"""What spellings become that PyTorch exports with more operators than they need."""

VALUES = [-2.0, -1.0, -0.7, -0.5, -0.15, -1e-3, 0.0, 1e-3, 0.15, 0.5, 0.7, 1.0, 1.5, 2.5, 0.0, -3.0]


@pytest.mark.parametrize("way", WAYS)
def test_values_are_those_of_eager_at_zero_too(way, tmp_path):
    module = Named({name: Function(row) for name, row in ROWS.items()})
    x = torch.tensor(VALUES).view(1, 4, 2, 2)
    found = outputs(WAYS[way](module, x, tmp_path), x)
    expected = {name: y.numpy() for name, y in module(x).items()}
    wrong = [row for row, y in zip(expected, found, strict=True) if (y != expected[row]).any()]
    assert wrong == []


@pytest.mark.parametrize("row", ARRIVE)
def test_arrives_as_few_operators(row):
    imported = import_model(Function(ROWS[row]), torch.ones(1, 4, 2, 2))
    assert operators(imported) == ARRIVE[row]


def test_copysign_is_a_comparison_with_zero():
    x = torch.tensor([-2.0, -1e-9, 0.0, 3.0])
    imported = import_model(Function(lambda x: torch.copysign(torch.ones(()), x)), x)
    assert operators(imported) == ["less", "where"]
    assert_same(outputs(imported, x)[0], torch.tensor([-1.0, -1.0, 1.0, 1.0]))

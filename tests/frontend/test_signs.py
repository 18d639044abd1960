# SPDX-License-Identifier: Apache-2.0
"""Every spelling of sign keeps its values, zeros included, and arrives as a few operators."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.frontend.nets import WAYS, Function, Named, assert_same, operators, outputs
from xnortvm.frontend import import_model


class Estimator(torch.autograd.Function):
    """Sign with a gradient of its own."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()


def assigned(x):
    s = torch.sign(x)
    s[s == 0] = 1
    return s


def bi_real(x):
    """Bi-Real Net: sign, and a quadratic surrogate for the gradient."""
    below, negative, small = ((x < bound).type(torch.float32) for bound in (-1, 0, 1))
    first = -1 * below + (x * x + 2 * x) * (1 - below)
    second = first * negative + (-x * x + 2 * x) * (1 - negative)
    third = second * small + 1 * (1 - small)
    return torch.sign(x).detach() - third.detach() + third


def clipped(x):
    c = torch.clamp(x, -1, 1)
    return (torch.sign(x) - c).detach() + c


def sign_or_one(x):
    s = torch.sign(x)
    return torch.where(s == 0, torch.tensor(1.0), s)


ROWS = {
    "autograd function": lambda x: Estimator.apply(x),
    "where zero": sign_or_one,
    "where greater": lambda x: torch.where(x > 0, torch.tensor(1.0), torch.tensor(-1.0)),
    "where greater or equal": lambda x: torch.where(x >= 0, 1.0, -1.0),
    "where less": lambda x: torch.where(x < 0, -1.0, 1.0),
    "twice a cast": lambda x: (x >= 0).to(x.dtype) * 2 - 1,
    "twice a float": lambda x: 2 * x.gt(0).float() - 1,
    "twice a bool": lambda x: (x >= 0) * 2.0 - 1.0,
    "masked fill": lambda x: torch.ones_like(x).masked_fill_(x < 0, -1),
    "mask assigned": assigned,
    "sign of shifted sign": lambda x: torch.sign(torch.sign(x) + 0.1),
    "units": lambda x: x.div(1).sign().mul(1),
    "bi-real": bi_real,
    "clipped surrogate": clipped,
    "clipped first": lambda x: torch.sign(torch.clamp(x / 0.7, -1, 1)),
    "tanh first": lambda x: torch.sign(torch.tanh(x * 5)),
    "hardtanh first": lambda x: torch.sign(nn.functional.hardtanh(x)),
    "rounded": lambda x: torch.round(torch.clamp((x + 1) / 2, 0, 1)) * 2 - 1,
    "zero or s": lambda x: 0.5 * (x > 0.15).float(),
    "learned threshold": lambda x: torch.sign(
        x + torch.tensor([[[0.1]], [[-0.2]], [[0.0]], [[1]]])
    ),
    "two masks": lambda x: (x >= 0).float() - (x < 0).float(),
    "after max pool": lambda x: torch.sign(nn.functional.max_pool2d(x, 2)),
    "after average pool": lambda x: torch.sign(nn.functional.avg_pool2d(x, 2)),
}

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

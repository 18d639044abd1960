# SPDX-License-Identifier: Apache-2.0
"""Scales of signs move behind moves and layers, and a layer stays binary; or it is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.differential import assert_same, lower


class Net(nn.Module):
    """A function of (weight of a 3×3, of a 1×1 and of a linear layer, x)."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        shapes = [(6, 5, 3, 3), (6, 5, 1, 1), (4, 100)]
        self.weights = nn.ParameterList(torch.randn(shape) for shape in shapes)
        self.function = forward

    def forward(self, x: Any) -> Any:
        three, one, rows = (weight.sign() for weight in self.weights)
        return self.function(three, one, rows * 0.3, x)


def sign(x: Any) -> Any:
    return torch.where(x >= 0, 1.0, -1.0)


def mean(x: Any, *axes: int) -> Any:
    return x.abs().mean(axes, keepdim=True)


#: Networks of one binary layer each.
BINARY: dict[str, Callable[..., Any]] = {
    "rows": lambda _, __, w, x: F.linear(sign(x.flatten(1)) * mean(x.flatten(1), 1), w),
    "rows, expanded": lambda _, __, w, x: F.linear(
        mean(x.flatten(1), 1).expand(2, 100) * sign(x.flatten(1)), w
    ),
    "rows, divided, scaled, signed": lambda _, __, w, x: F.linear(
        -0.5 * (sign(x.flatten(1)) * 0.7 / x.flatten(1).sum(1, keepdim=True)), w
    ),
    "samples before flatten": lambda _, __, w, x: F.linear(
        (sign(x) * mean(x, 1, 2, 3)).flatten(1), w
    ),
    "samples": lambda w, _, __, x: F.conv2d(sign(x) * mean(x, 1, 2, 3), w, padding=1),
    "samples, twice": lambda w, _, __, x: F.conv2d(
        sign(x) * mean(x, 1, 2, 3) * x.sum((1, 2, 3), keepdim=True), w, padding=1
    ),
    "pixels": lambda _, w, __, x: F.conv2d(sign(x) * mean(x, 1), w),
    "joined": lambda w, _, __, x: F.conv2d(
        torch.cat([0.5 * sign(x[:, :2]) + 0.5, 0.5 * sign(x[:, :3] - 1) + 0.5], 1), w
    ),
    "pixels, strided": lambda _, w, __, x: F.conv2d(sign(x) * mean(x, 1), w, stride=(2, 1)),
}

#: Networks whose layer has to stay float, and what the report says.
FLOAT: dict[str, tuple[Callable[..., Any], str]] = {
    "pixels under a window": (
        lambda w, _, __, x: F.conv2d(sign(x) * mean(x, 1), w),
        "map of scales .* window adds up pixels",
    ),
    "pixels and padding": (
        lambda _, w, __, x: F.conv2d(sign(x) * mean(x, 1), w, padding=1),
        "map of scales",
    ),
    "channels": (
        lambda w, _, __, x: F.conv2d(sign(x) * mean(x, 2, 3), w),
        r"scale for each channel \(2×1×1×5\)",
    ),
    "channels of a parameter": (
        lambda w, _, __, x: F.conv2d(sign(x) * torch.arange(1.0, 6).view(5, 1, 1), w),
        "scale for each channel",
    ),
    "joined with different scales": (
        lambda w, _, __, x: F.conv2d(torch.cat([2 * sign(x[:, :2]), 3 * sign(x[:, 2:])], 1), w),
        "joins signs with different scales",
    ),
    "offset behind the scale": (
        lambda _, __, w, x: F.linear(sign(x.flatten(1)) * mean(x.flatten(1), 1) + 0.1, w),
        "real-valued|sign times",
    ),
}


@pytest.mark.parametrize("name", BINARY)
def test_factors_of_a_whole_sum_leave_it(name):
    assert_same(Net(BINARY[name]), torch.randn(2, 5, 4, 5), binary=1)


@pytest.mark.parametrize("name", FLOAT)
def test_does_not_move_factors_that_differ_within_a_sum(name):
    forward, reason = FLOAT[name]
    assert_same(Net(forward), torch.randn(2, 5, 4, 5), binary=0)
    report = lower(Net(forward), torch.randn(2, 5, 4, 5)).report
    assert re.search(reason, report.layers[0].reason), report


def test_does_not_touch_products_without_a_sign():
    lowered = lower(
        Net(lambda _, __, w, x: F.linear(x.flatten(1) * mean(x.flatten(1), 1), w)),
        torch.randn(2, 5, 4, 5),
    )
    names = [
        str(b.value.op.name)
        for b in lowered.mod["main"].body.blocks[0].bindings
        if hasattr(b.value, "op")
    ]
    assert names.index("relax.multiply") < names.index("relax.matmul")

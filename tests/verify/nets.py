# SPDX-License-Identifier: Apache-2.0
"""Small networks for the tests of `xnortvm.verify`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.differential import randomize


def sign(x: Any) -> Any:
    """+1 at 0."""
    return torch.where(x >= 0, 1.0, -1.0)


class Chain(nn.Module):
    """Float stem, two binary convolutions, two binary linear layers; with Γ of case 4 if asked."""

    def __init__(self, gamma: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64)
        self.one = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.after = nn.BatchNorm2d(64)
        self.two = nn.Conv2d(64, 32, 3, padding=1, bias=False)
        self.three, self.four = nn.Linear(32, 16), nn.Linear(16, 10)
        self.factors = nn.ParameterList(
            torch.rand(shape) + 0.1 for shape in ((64, 1, 1), (8, 1), (8,)) if gamma
        )
        randomize(self)

    def forward(self, x: Any) -> Any:
        x = self.norm(self.stem(x))
        x = F.conv2d(sign(x), self.one.weight.sign(), padding=1)
        for factor in self.factors:
            x = x * factor
        x = F.conv2d(sign(self.after(x)), self.two.weight.sign(), padding=1)
        x = F.linear(sign(x.mean((2, 3)) - 0.1), self.three.weight.sign())
        return F.linear(sign(x - 0.5), self.four.weight.sign())


class Function(nn.Module):
    """A function of the module and its inputs."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def cancelling() -> tuple[nn.Conv2d, torch.Tensor]:
    """Make a float layer and an input whose sums are 0, except that rounding depends on the order.

    Both sides of a comparison are right and take about half of the signs differently.
    """
    torch.manual_seed(0)
    order = torch.randperm(256)
    half = torch.randn(64, 128)
    weight = torch.zeros(64, 256)
    weight[:, order[:128]], weight[:, order[128:]] = half, -half
    values = torch.randn(1, 128, 16, 16)
    x = torch.zeros(1, 256, 16, 16)
    x[:, order[:128]], x[:, order[128:]] = values, values
    layer = nn.Conv2d(256, 64, 1, bias=False)
    layer.weight.data = weight[:, :, None, None]
    return layer, x

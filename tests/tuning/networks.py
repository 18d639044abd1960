# SPDX-License-Identifier: Apache-2.0
"""Small tasks and networks to tune."""

from __future__ import annotations

import torch

from xnortvm.tools.layer_modules import Layer, binary_layer
from xnortvm.transform.group import group_epilogues
from xnortvm.tuning.task import Task, tasks_of


def binary_task(layer: Layer) -> Task:
    """The task of one binary layer."""
    (task,) = tasks_of(group_epilogues(binary_layer(layer).mod))
    return task


class BinaryConv(torch.nn.Conv2d):
    """Signs convolved with signs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, weight = (torch.where(v >= 0, 1.0, -1.0) for v in (x, self.weight))
        return torch.nn.functional.conv2d(x, weight, None, self.stride, self.padding)


class Residual(torch.nn.Module):
    """Two binary layers of which the first is added to: floats and their bits from one kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (BinaryConv(32, 32, 3, padding=1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x) + x
        return self.second(x) + x


def network() -> tuple[torch.nn.Module, torch.Tensor]:
    """A float convolution, two equal binary ones, and an input."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, padding=1),
        torch.nn.BatchNorm2d(32),
        BinaryConv(32, 32, 3, padding=1),
        torch.nn.BatchNorm2d(32),
        BinaryConv(32, 32, 3, padding=1),
        torch.nn.BatchNorm2d(32),
        BinaryConv(32, 32, 3, padding=1),
    )
    return net.eval(), torch.randn(1, 3, 8, 8)

# SPDX-License-Identifier: Apache-2.0
"""Whole networks compiled for CUDA compute what PyTorch computes, on the emulator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.cuda.emulator import has_compiler
from tests.cuda.network import emulate, kernels_of

pytestmark = pytest.mark.skipif(not has_compiler(), reason="the emulator compiles with g++")


def sign(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


class Block(torch.nn.Module):
    """Two binary convolutions with batch norm, PReLU, a scale of each kind, and a shortcut."""

    def __init__(self, channels: int, outputs: int, size: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.first = torch.nn.Parameter(torch.randn(outputs, channels, 3, 3))
        self.second = torch.nn.Parameter(torch.randn(outputs, outputs, 3, 3))
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(outputs) for _ in range(2))
        self.act = torch.nn.PReLU(outputs, 0.3)
        self.alpha = torch.nn.Parameter(torch.rand(outputs, 1, 1) + 0.1)
        self.beta = torch.nn.Parameter(torch.rand(size, 1) + 0.1)
        self.gamma = torch.nn.Parameter(torch.rand(1, size) + 0.1)
        self.short = (
            torch.nn.Conv2d(channels, outputs, 1, bias=False) if channels != outputs else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv = torch.nn.functional.conv2d
        y = conv(sign(x), self.first.sign(), stride=self.stride, padding=1) * self.alpha
        y = conv(sign(self.norms[0](y)), self.second.sign(), padding=1)
        y = self.act(self.norms[1](y * (self.alpha * self.beta * self.gamma)))
        if self.short is not None:
            x = self.short(torch.nn.functional.avg_pool2d(x, self.stride, ceil_mode=True))
        return y + x


class Net(torch.nn.Module):
    """A float stem, a pooling, two residual blocks, a binary and a float classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 32, 7, 2, 3, bias=False)
        self.norm = torch.nn.BatchNorm2d(32)
        self.blocks = torch.nn.Sequential(Block(32, 32, 5, 1), Block(32, 48, 3, 2))
        self.binary = torch.nn.Parameter(torch.randn(40, 48))
        self.last = torch.nn.Linear(40, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.max_pool2d(self.norm(self.stem(x)), 3, 2, 1)
        x = self.blocks(x).mean((2, 3))
        x = torch.nn.functional.linear(sign(x), self.binary.sign())
        return torch.softmax(self.last(x / 8), -1)


def random_net() -> Net:
    """Return the network with random weights and batch norms."""
    torch.manual_seed(3)
    made = Net().eval()
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.normal_()
                module.bias.normal_()
    return made


@pytest.fixture(scope="module")
def net() -> Net:
    return random_net()


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_a_residual_network_agrees_with_pytorch(net: Net, arch: str) -> None:
    x = torch.randn(2, 3, 19, 20)[..., :19]
    mod = kernels_of(net, x, f"cuda -arch={arch}")
    (found,) = emulate(mod, [x.numpy().copy()], arch)
    with torch.no_grad():
        wanted = net(x).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max(), rtol=0)

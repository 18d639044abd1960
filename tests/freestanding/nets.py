# SPDX-License-Identifier: Apache-2.0
"""Networks whose freestanding form is tested: small, and each with something of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xnortvm.models import BinaryLinear, build, random_input


class Net(NamedTuple):
    """A module and example inputs."""

    module: nn.Module
    inputs: tuple[Tensor, ...]


def _named(name: str, **options: Any) -> Net:
    module = build(name, **options)
    return Net(module, (random_input(module, batch=1),))


class Several(nn.Module):
    """Float and integer inputs; float and integer outputs, an input and a constant among them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = BinaryLinear(40, 24)
        self.register_buffer("levels", torch.arange(5))

    def forward(self, x: Tensor, shift: Tensor, y: Tensor) -> Any:
        z = self.layer(x) + shift.sum(-1, keepdim=True) + y
        return z, z.argmax(-1), (z > 0), y, self.levels, z.reshape(2, 4, 6), y * 2


class IntegersOnly(nn.Module):
    """Nothing but integers comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = BinaryLinear(64, 96), BinaryLinear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x)).argmax(-1).to(torch.int32)


def _linear() -> Net:
    torch.manual_seed(0)
    layers = nn.Sequential(BinaryLinear(100, 50), nn.BatchNorm1d(50), BinaryLinear(50, 7))
    return Net(layers.eval(), (torch.randn(3, 100),))


def _several() -> Net:
    torch.manual_seed(0)
    inputs = (torch.randn(2, 40), torch.ones(2, 3, dtype=torch.int64), torch.randn(2, 24))
    return Net(Several().eval(), inputs)


def _integers() -> Net:
    torch.manual_seed(0)
    return Net(IntegersOnly().eval(), (torch.randn(4, 64),))


NETS: dict[str, Callable[[], Net]] = {
    "cifar": lambda: _named("resnet18-cifar", width=8, input_size=16),
    "resnet18": lambda: _named("resnet18", width=16, input_size=(40, 33)),
    "lenet": lambda: _named("lenet"),
    "linear": _linear,
    "several": _several,
    "integers": _integers,
}

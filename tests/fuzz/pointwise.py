# SPDX-License-Identifier: Apache-2.0
"""What stands between layers: scales, batch norm, activations, pools, one builder each."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fuzz.build import Build


class Apply(nn.Module):
    """A function without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Scale(nn.Module):
    """Γ: one factor after the other, or their product first; from the right or from the left."""

    def __init__(self, factors: list[Tensor], product: bool = False, left: bool = False) -> None:
        super().__init__()
        self.factors = nn.ParameterList(factors)
        self.product, self.left = product, left

    def forward(self, x: Tensor) -> Tensor:
        if self.product:
            gamma = self.factors[0]
            for factor in list(self.factors)[1:]:  # a list: torch.export cannot slice shared ones
                gamma = gamma * factor
            return gamma * x if self.left else x * gamma
        for factor in self.factors:
            x = factor * x if self.left else x * factor
        return x


class Expanded(nn.Module):
    """α expanded to the size of the map before it multiplies."""

    def __init__(self, alpha: Tensor) -> None:
        super().__init__()
        self.alpha = nn.Parameter(alpha)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.alpha.expand(x.size())


class Shift(nn.Module):
    """A learned bias per channel."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.expand_as(x)


Make = Callable[[Build, tuple[int, ...]], nn.Module]
"""From the shape of the value (batch first) to the module."""

_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}


def _channel(build: Build, shape: tuple[int, ...]) -> Tensor:
    return build.normal(shape[1], *[1] * (len(shape) - 2))


def _batch_norm(build: Build, shape: tuple[int, ...]) -> nn.Module:
    norm = _NORMS[len(shape)](shape[1], eps=0 if build.spec.params == "few" else 1e-5)
    norm.running_mean = build.normal(shape[1])
    norm.running_var = build.normal(shape[1]) ** 2 + (0.25 if build.spec.params == "few" else 0.5)
    norm.weight.data, norm.bias.data = build.normal(shape[1]), build.normal(shape[1])
    return norm


def _prelu(build: Build, shape: tuple[int, ...]) -> nn.Module:
    act = nn.PReLU(shape[1])
    act.weight.data = build.normal(shape[1])
    return act


def _positive_prelu(build: Build, shape: tuple[int, ...]) -> nn.Module:
    act = _prelu(build, shape)
    act.weight.data.abs_()
    return act


def _factors(build: Build, shape: tuple[int, ...]) -> list[Tensor]:
    """Case 4: one factor for each axis but the batch."""
    rank = len(shape) - 1
    return [
        build.normal(*[shape[1 + axis] if axis == kept else 1 for axis in range(rank)])
        for kept in range(rank)
    ]


def _plane(build: Build, shape: tuple[int, ...]) -> list[Tensor]:
    """Case 3: the channels, and the map."""
    return [_channel(build, shape), build.normal(1, *shape[2:])]


def _power_of_two(build: Build, shape: tuple[int, ...]) -> nn.Module:
    return Scale([2 ** _channel(build, shape).round()])


def _apply(function: Callable[[Tensor], Tensor]) -> Make:
    return lambda build, shape: Apply(function)


POINTWISE: dict[str, Make] = {
    "bn": _batch_norm,
    "prelu": _prelu,
    "positive prelu": _positive_prelu,
    "relu": _apply(F.relu),
    "relu6": _apply(F.relu6),
    "hardtanh": _apply(F.hardtanh),
    "leaky": _apply(lambda x: F.leaky_relu(x, 0.25)),
    "falling leaky": _apply(lambda x: F.leaky_relu(x, -0.25)),
    "tanh": _apply(torch.tanh),
    "sigmoid": _apply(torch.sigmoid),
    "abs": _apply(torch.abs),
    "negative": _apply(lambda x: -x),
    "clamp": _apply(lambda x: torch.clamp(x, -0.5, 1.5)),
    "divide": _apply(lambda x: x / 3.0),
    "one minus": _apply(lambda x: 1 - x),
    "shift": lambda build, shape: Shift(_channel(build, shape)),
    "scalar": lambda build, shape: Scale([build.normal()]),
    "zero": lambda build, shape: Scale([_channel(build, shape) * 0]),
    "channel": lambda build, shape: Scale([_channel(build, shape)]),
    "channel, left": lambda build, shape: Scale([_channel(build, shape)], left=True),
    "batched channel": lambda build, shape: Scale([_channel(build, shape)[None]]),
    "expanded channel": lambda build, shape: Expanded(_channel(build, shape)),
    "dense": lambda build, shape: Scale([build.normal(*shape[1:])]),
    "plane": lambda build, shape: Scale(_plane(build, shape)),
    "plane product": lambda build, shape: Scale(_plane(build, shape), product=True),
    "factors": lambda build, shape: Scale(_factors(build, shape)),
    "factors product": lambda build, shape: Scale(_factors(build, shape), product=True, left=True),
    "power of two": _power_of_two,
}
"""Modules that keep the shape of their input."""

# SPDX-License-Identifier: Apache-2.0
"""Parts of the networks: options of binary layers, units, residual sums, activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from .layers import BinaryConv2d, BinaryLinear
from .scale import scale_kind
from .window import Size, Window

ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "prelu": nn.PReLU,
    "relu": lambda channels: nn.ReLU(),
    "none": lambda channels: nn.Identity(),
}
"""Activations by name, made for a number of channels."""


def check_choice(what: str, value: str, valid: Mapping[str, object]) -> None:
    """Raise a ValueError that lists the valid names unless `value` is one of them."""
    if value not in valid:
        raise ValueError(f"unknown {what} {value!r}; valid: {', '.join(valid)}")


@dataclass(frozen=True)
class BinaryOptions:
    """How every binary layer of one network is made.

    Parameters
    ----------
    scale : str
        Γ of the convolutions, see `models.scale`; linear layers take the form that exists for them.
    activation : str
        Key of `ACTIVATIONS`; follows each binary layer.
    estimator, weight_estimator, sign_zero : str
        See `models.ste`.
    """

    scale: str
    activation: str = "prelu"
    estimator: str = "clipped"
    weight_estimator: str = "clipped"
    sign_zero: str = "0"

    def __post_init__(self) -> None:
        scale_kind(self.scale, rank=2)
        check_choice("activation", self.activation, ACTIVATIONS)

    def conv(self, channels_in: int, channels_out: int, window: Window, size: Size) -> BinaryConv2d:
        """Make a binary convolution whose Γ fits input maps of `size`."""
        return BinaryConv2d(
            channels_in,
            channels_out,
            window.kernel,
            window.stride,
            window.padding,
            window.dilation,
            window.groups,
            scale=self.scale,
            map_size=window.output_size(size),
            estimator=self.estimator,
            weight_estimator=self.weight_estimator,
            sign_zero=self.sign_zero,
        )

    def linear(self, features_in: int, features_out: int) -> BinaryLinear:
        """Make a binary linear layer."""
        return BinaryLinear(
            features_in,
            features_out,
            scale=scale_kind(self.scale)[1].linear,
            estimator=self.estimator,
            weight_estimator=self.weight_estimator,
            sign_zero=self.sign_zero,
        )

    def act(self, channels: int) -> nn.Module:
        """Make the activation for `channels` channels."""
        return ACTIVATIONS[self.activation](channels)


class PreNormUnit(nn.Module):
    """BN > sign > conv > Γ > activation: the unit of XNOR-Net++.

    Parameters
    ----------
    channels_in, channels_out : int
        Channels.
    window : Window
        Geometry of the convolution.
    size : tuple of int
        Input map (h, w).
    options : BinaryOptions
        How the convolution is made.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        window: Window,
        size: Size,
        options: BinaryOptions,
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in)
        self.conv = options.conv(channels_in, channels_out, window, size)
        self.act = options.act(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(n, i, h, w) to (n, o, h', w')."""
        y: Tensor = self.act(self.conv(self.norm(x)))
        return y


class PostNormUnit(nn.Module):
    """sign > conv > Γ > BN > activation: the unit of Bi-Real Net.

    Parameters are those of `PreNormUnit`.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        window: Window,
        size: Size,
        options: BinaryOptions,
    ) -> None:
        super().__init__()
        self.conv = options.conv(channels_in, channels_out, window, size)
        self.norm = nn.BatchNorm2d(channels_out)
        self.act = options.act(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(n, i, h, w) to (n, o, h', w')."""
        y: Tensor = self.act(self.norm(self.conv(x)))
        return y


class PreNormLinearUnit(nn.Module):
    """BN > sign > linear > Γ > activation, (n, i) to (n, o)."""

    def __init__(self, features_in: int, features_out: int, options: BinaryOptions) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features_in)
        self.linear = options.linear(features_in, features_out)
        self.act = options.act(features_out)

    def forward(self, x: Tensor) -> Tensor:
        """(n, i) to (n, o)."""
        y: Tensor = self.act(self.linear(self.norm(x)))
        return y


class Residual(nn.Module):
    """``body(x) + shortcut(x)``."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Sum of both branches; both must give the same shape."""
        y: Tensor = self.body(x) + self.shortcut(x)
        return y


class BinaryNetwork(nn.Module):
    """A classifier that knows the shape of the input it was built for.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width) of one input.
    num_classes : int
        Number of logits.

    Attributes
    ----------
    fc : nn.Linear
        The last layer, which is real and gives the logits.
    """

    fc: nn.Linear

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.num_classes = num_classes


def image_size(input_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from one number or two.

    Raises
    ------
    ValueError
        Unless they are two positive numbers.
    """
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"input_size must be one or two positive numbers, got {input_size}")
    return size

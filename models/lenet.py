# SPDX-License-Identifier: Apache-2.0
"""A small LeNet-like binary network for small images, such as digits of 28×28 or 8×8 pixels."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from .blocks import BinaryNetwork, BinaryOptions, PreNormLinearUnit, PreNormUnit, image_size
from .layers import name_layers
from .window import Window

_CONV = Window.of(2, 5, padding=2)
_POOL = Window.of(2, 2, 2)


class LeNet(BinaryNetwork):
    """Real and binary 5×5 convolution with a 2×2 max pool each, binary and real linear layer.

    The stem is conv > BN > PReLU > max pool, the binary units BN > sign > conv or linear > Γ >
    activation, the last layer BN > linear.

    Parameters
    ----------
    scale : str
        Γ of the binary convolution; the binary linear layer has the form that exists for it.
    num_classes : int
        Number of logits.
    input_size : int or (int, int)
        Image size, at least 4.
    channels : (int, int)
        Output channels of the two convolutions.
    hidden : int
        Width of the binary linear layer.
    in_channels : int
        Channels of an image.
    activation, estimator, weight_estimator, sign_zero : str
        See `BinaryOptions`.

    Raises
    ------
    ValueError
        For an unknown name, or an image that is too small.
    """

    def __init__(
        self,
        *,
        scale: str = "channel×height×width",
        num_classes: int = 10,
        input_size: int | tuple[int, int] = 28,
        channels: tuple[int, int] = (32, 64),
        hidden: int = 256,
        in_channels: int = 1,
        activation: str = "prelu",
        estimator: str = "clipped",
        weight_estimator: str = "clipped",
        sign_zero: str = "0",
    ) -> None:
        height, width = image_size(input_size)
        super().__init__((in_channels, height, width), num_classes)
        options = BinaryOptions(scale, activation, estimator, weight_estimator, sign_zero)
        first, second = channels
        size = _POOL.output_size(_CONV.output_size((height, width)))
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, first, 5, padding=2, bias=False),
            nn.BatchNorm2d(first),
            nn.PReLU(first),
            nn.MaxPool2d(2),
        )
        self.conv = PreNormUnit(first, second, _CONV, size, options)
        self.pool = nn.MaxPool2d(2)
        size = _POOL.output_size(_CONV.output_size(size))
        self.linear = PreNormLinearUnit(second * prod(size), hidden, options)
        self.norm = nn.BatchNorm1d(hidden)
        self.fc = nn.Linear(hidden, num_classes)
        name_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, c, h, w), float32."""
        features = self.pool(self.conv(self.stem(x)))
        logits: Tensor = self.fc(self.norm(self.linear(features.flatten(1))))
        return logits

# SPDX-License-Identifier: Apache-2.0
"""Binary AlexNet with the layer sizes of XNOR-Net's (no groups), Γ learned as in XNOR-Net++."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from .blocks import BinaryNetwork, BinaryOptions, PreNormLinearUnit, PreNormUnit, image_size
from .layers import name_layers
from .window import Window

_POOL = Window.of(2, 3, 2)
_STEM = Window.of(2, 11, 4, 2)
_BINARY = (
    (Window.of(2, 5, padding=2), True),
    (Window.of(2, 3, padding=1), False),
    (Window.of(2, 3, padding=1), False),
    (Window.of(2, 3, padding=1), True),
)
"""Window of each binary convolution, and whether a max pool follows."""


class AlexNet(BinaryNetwork):
    """Binary AlexNet: all but the first convolution and the last linear layer are binary.

    The stem is conv 11×11 stride 4 > BN > ReLU > max pool; a unit is BN > sign > conv > Γ >
    activation, with a max pool behind the second and the fifth convolution; the last layer is
    BN > linear.

    Parameters
    ----------
    scale : str
        Γ of the convolutions; fc6 and fc7 have the form that exists for linear layers.
    num_classes : int
        Number of logits.
    input_size : int or (int, int)
        Image size, at least 63 (three pools with no padding).
    channels : tuple of int
        Output channels of the five convolutions.
    hidden : int
        Width of fc6 and fc7.
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
        num_classes: int = 1000,
        input_size: int | tuple[int, int] = 224,
        channels: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256),
        hidden: int = 4096,
        activation: str = "prelu",
        estimator: str = "clipped",
        weight_estimator: str = "clipped",
        sign_zero: str = "0",
    ) -> None:
        height, width = image_size(input_size)
        super().__init__((3, height, width), num_classes)
        options = BinaryOptions(scale, activation, estimator, weight_estimator, sign_zero)
        size = _POOL.output_size(_STEM.output_size((height, width)))
        layers: list[nn.Module] = [
            nn.Conv2d(3, channels[0], 11, 4, 2, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        ]
        for before, after, (window, pooled) in zip(channels, channels[1:], _BINARY, strict=False):
            layers.append(PreNormUnit(before, after, window, size, options))
            size = window.output_size(size)
            if pooled:
                layers.append(nn.MaxPool2d(3, 2))
                size = _POOL.output_size(size)
        self.features = nn.Sequential(*layers)
        self.fc6 = PreNormLinearUnit(channels[-1] * prod(size), hidden, options)
        self.fc7 = PreNormLinearUnit(hidden, hidden, options)
        self.norm = nn.BatchNorm1d(hidden)
        self.fc = nn.Linear(hidden, num_classes)
        name_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, 3, h, w), float32."""
        logits: Tensor = self.fc(self.norm(self.fc7(self.fc6(self.features(x).flatten(1)))))
        return logits

# SPDX-License-Identifier: Apache-2.0
"""A network of the kind of QuickNet (Bannink et al., Larq Compute Engine, 2021).

================ =================================================================================
stem             conv 3×3 stride 2 > BN > ReLU > depthwise 3×3 stride 2 > BN > 1×1 conv > BN
residual block   x + BN(ReLU(Γ · conv 3×3(sign(x)))): one shortcut around every binary convolution
transition       ReLU > max pool 2×2 stride 1 > blur 3×3 stride 2 > 1×1 conv > BN
end              ReLU > mean over the map > linear
================ =================================================================================

Everything but the 3×3 convolutions of the blocks is real, and small: what surrounds binary layers
counts in such networks. Unlike the original, zero padding of the signs is 0, as PyTorch pads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import BinaryNetwork, BinaryOptions, Residual, image_size
from .layers import name_layers
from .window import Size, Window

_HALVING = Window.of(2, 3, 2, 1)
_POOL = Window.of(2, 2, 1)
_BINARY = Window.of(2, 3, 1, 1)


class ActNormUnit(nn.Module):
    """sign > conv > Γ > activation > BN: the unit of QuickNet, whose BN sees the activation.

    Parameters
    ----------
    channels : int
        Channels in and out.
    size : tuple of int
        Map (h, w).
    options : BinaryOptions
        How the convolution is made.
    """

    def __init__(self, channels: int, size: Size, options: BinaryOptions) -> None:
        super().__init__()
        self.conv = options.conv(channels, channels, _BINARY, size)
        self.act = options.act(channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the same shape."""
        y: Tensor = self.norm(self.act(self.conv(x)))
        return y


class Blur(nn.Module):
    """Depthwise 3×3 convolution with stride 2 by the fixed weights [1, 2, 1] ⊗ [1, 2, 1] / 16."""

    weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        weight = (row[:, None] * row).expand(channels, 1, 3, 3).contiguous()
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c, ceil(h / 2), ceil(w / 2))."""
        return functional.conv2d(x, self.weight, stride=2, padding=1, groups=len(self.weight))


def _stem(width: int) -> nn.Sequential:
    narrow = max(width // 4, 1)
    return nn.Sequential(
        nn.Conv2d(3, narrow, 3, 2, 1, bias=False),
        nn.BatchNorm2d(narrow),
        nn.ReLU(),
        nn.Conv2d(narrow, narrow, 3, 2, 1, groups=narrow, bias=False),
        nn.BatchNorm2d(narrow),
        nn.Conv2d(narrow, width, 1, bias=False),
        nn.BatchNorm2d(width),
    )


def _transition(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        Blur(channels_in),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
        nn.BatchNorm2d(channels_out),
    )


class QuickNet(BinaryNetwork):
    """A QuickNet-like network.

    Parameters
    ----------
    scale : str
        Γ of the binary convolutions; "none" as in the original, whose batch norms do that work.
    num_classes : int
        Number of logits.
    input_size : int or (int, int)
        Image size, large enough for the 2×2 pools (33 with four sections).
    sections : tuple of (int, int)
        Blocks and channels of each section.
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
        scale: str = "channel",
        num_classes: int = 1000,
        input_size: int | tuple[int, int] = 224,
        sections: tuple[tuple[int, int], ...] = ((4, 64), (4, 128), (4, 256), (4, 512)),
        activation: str = "relu",
        estimator: str = "clipped",
        weight_estimator: str = "clipped",
        sign_zero: str = "+1",
    ) -> None:
        height, width = image_size(input_size)
        super().__init__((3, height, width), num_classes)
        options = BinaryOptions(scale, activation, estimator, weight_estimator, sign_zero)
        channels = sections[0][1]
        self.stem = _stem(channels)
        size = _HALVING.output_size(_HALVING.output_size((height, width)))
        layers: list[nn.Module] = []
        for index, (blocks, wider) in enumerate(sections):
            if index:
                layers.append(_transition(channels, wider))
                size = _HALVING.output_size(_POOL.output_size(size))
                channels = wider
            layers += [
                Residual(ActNormUnit(channels, size, options), nn.Identity()) for _ in range(blocks)
            ]
        self.blocks = nn.Sequential(*layers)
        self.act = nn.ReLU()
        self.fc = nn.Linear(channels, num_classes)
        name_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, 3, h, w), float32."""
        features = self.act(self.blocks(self.stem(x))).mean((2, 3))
        logits: Tensor = self.fc(features)
        return logits

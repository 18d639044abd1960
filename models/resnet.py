# SPDX-License-Identifier: Apache-2.0
"""Binary ResNet-18 in three styles, for ImageNet-like and CIFAR-like images.

====== ============================= =========== ===============================================
style  unit                          shortcut of where the shape changes, the shortcut is
====== ============================= =========== ===============================================
xnorpp BN > sign > conv > Γ > PReLU  two units   average pool > real 1×1 conv > BN
bireal sign > conv > Γ > BN          one unit    average pool > real 1×1 conv > BN
plain  sign (x >= 0) > conv > Γ > BN two units   sign (x >= 0) > 1×1 conv, stride 2 > Γ > BN
====== ============================= =========== ===============================================

``xnorpp`` follows the pre-activation block and the shortcut of the library of XNOR-Net++'s author
(recipe ``imagenet-baseline``: first and last layer and the shortcuts' convolutions stay real; no BN
behind the last block). ``bireal`` is Bi-Real Net with Γ: the stem has no ReLU, so that no exact
zeros reach the first sign. ``plain`` is the network of the speed comparisons: everything but the
first and the last layer is binary, every sign is ``x >= 0``, and there is no activation behind the
convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from .blocks import (
    ACTIVATIONS,
    BinaryNetwork,
    BinaryOptions,
    PostNormUnit,
    PreNormUnit,
    Residual,
    check_choice,
    image_size,
)
from .layers import name_layers
from .window import Size, Window

Shortcut = Callable[[int, int, int, Size, BinaryOptions], nn.Module]


def _real_conv(channels_in: int, channels_out: int, window: Window) -> nn.Conv2d:
    return nn.Conv2d(
        channels_in,
        channels_out,
        window.kernel[0],
        window.stride[0],
        window.padding[0],
        bias=False,
    )


def _pooled(real: bool) -> Shortcut:
    def make(
        channels_in: int, channels_out: int, stride: int, size: Size, options: BinaryOptions
    ) -> nn.Module:
        halved = tuple(-(-n // stride) for n in size)
        window = Window.of(2)
        return nn.Sequential(
            nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
            _real_conv(channels_in, channels_out, window)
            if real
            else options.conv(channels_in, channels_out, window, halved),
            nn.BatchNorm2d(channels_out),
        )

    return make


def _strided(real: bool) -> Shortcut:
    def make(
        channels_in: int, channels_out: int, stride: int, size: Size, options: BinaryOptions
    ) -> nn.Module:
        window = Window.of(2, stride=stride)
        return nn.Sequential(
            _real_conv(channels_in, channels_out, window)
            if real
            else options.conv(channels_in, channels_out, window, size),
            nn.BatchNorm2d(channels_out),
        )

    return make


DOWNSAMPLES: dict[str, Callable[[bool], Shortcut]] = {"pool": _pooled, "stride": _strided}
"""Shortcuts across a change of shape: a 1×1 convolution behind a pool, or with a stride."""


@dataclass(frozen=True)
class Style:
    """One row of `STYLES`: the structure, and the defaults of what is an option."""

    unit: type[PreNormUnit] | type[PostNormUnit]
    units_per_shortcut: int
    stem_activation: str
    downsample: str
    binary_downsample: bool
    options: BinaryOptions


_CASE_4 = "channel×height×width"

STYLES: dict[str, Style] = {
    "xnorpp": Style(PreNormUnit, 2, "relu", "pool", False, BinaryOptions(_CASE_4)),
    "bireal": Style(
        PostNormUnit,
        1,
        "none",
        "pool",
        False,
        BinaryOptions(_CASE_4, activation="none", estimator="polynomial"),
    ),
    "plain": Style(
        PostNormUnit,
        2,
        "relu",
        "stride",
        True,
        BinaryOptions("channel", activation="none", sign_zero="+1"),
    ),
}
"""The styles by name; see the table on top of this file."""

STEMS: dict[str, tuple[Window, Window | None]] = {
    "imagenet": (Window.of(2, 7, 2, 3), Window.of(2, 3, 2, 1)),
    "cifar": (Window.of(2, 3, 1, 1), None),
    "strided": (Window.of(2, 3, 2, 1), None),
}
"""Windows of the first convolution and of the max pool behind it, if there is one."""


def _stem(kind: str, width: int, activation: str, size: Size) -> tuple[nn.Module, Size]:
    conv, pool = STEMS[kind]
    layers = [_real_conv(3, width, conv), nn.BatchNorm2d(width), ACTIVATIONS[activation](width)]
    size = conv.output_size(size)
    if pool is not None:
        layers.append(nn.MaxPool2d(pool.kernel[0], pool.stride[0], pool.padding[0]))
        size = pool.output_size(size)
    return nn.Sequential(*layers), size


class ResNet18(BinaryNetwork):
    """Binary ResNet-18.

    Parameters
    ----------
    style : {"xnorpp", "bireal", "plain"}
        See the table on top of this file.
    scale : str, optional
        Γ of every binary convolution; by default case 4, and case 1 for ``plain``.
    num_classes : int
        Number of logits.
    input_size : int or (int, int)
        Image size; Γ of the spatial cases is made for the maps that follow from it.
    stem : {"imagenet", "cifar", "strided"}
        7×7 stride 2 and max pool, 3×3 stride 1, or 3×3 stride 2.
    width : int
        Channels of the first of the four stages; each further one has twice as many.
    downsample : {"pool", "stride"}, optional
        How shortcuts change shape; by default as the style has it.
    binary_downsample : bool, optional
        Whether the 1×1 convolutions of the shortcuts are binary; by default as the style has it.
    activation, estimator, weight_estimator, sign_zero : str, optional
        Override what `BinaryOptions` the style has.

    Raises
    ------
    ValueError
        For an unknown name, naming the valid ones.

    Examples
    --------
    >>> model = ResNet18("xnorpp", stem="cifar", input_size=32, num_classes=10).eval()
    >>> tuple(model(torch.randn(1, 3, 32, 32)).shape)
    (1, 10)
    """

    def __init__(
        self,
        style: str = "xnorpp",
        *,
        scale: str | None = None,
        num_classes: int = 1000,
        input_size: int | tuple[int, int] = 224,
        stem: str = "imagenet",
        width: int = 64,
        downsample: str | None = None,
        binary_downsample: bool | None = None,
        activation: str | None = None,
        estimator: str | None = None,
        weight_estimator: str | None = None,
        sign_zero: str | None = None,
    ) -> None:
        check_choice("style", style, STYLES)
        check_choice("stem", stem, STEMS)
        row = STYLES[style]
        downsample = downsample or row.downsample
        check_choice("downsample", downsample, DOWNSAMPLES)
        height, size_w = image_size(input_size)
        super().__init__((3, height, size_w), num_classes)
        overrides = {
            "scale": scale,
            "activation": activation,
            "estimator": estimator,
            "weight_estimator": weight_estimator,
            "sign_zero": sign_zero,
        }
        options = replace(row.options, **{k: v for k, v in overrides.items() if v is not None})
        binary = row.binary_downsample if binary_downsample is None else binary_downsample
        shortcut = DOWNSAMPLES[downsample](not binary)

        self.stem, size = _stem(stem, width, row.stem_activation, (height, size_w))
        blocks: list[nn.Module] = []
        channels = width
        for stage in range(4):
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(
                    _block(row, channels, width << stage, stride, size, shortcut, options)
                )
                size = Window.of(2, 3, stride, 1).output_size(size)
                channels = width << stage
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, num_classes)
        name_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Parameters
        ----------
        x : Tensor
            (n, 3, h, w), float32.

        Returns
        -------
        Tensor
            (n, num_classes), float32.
        """
        logits: Tensor = self.fc(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


def _block(
    style: Style,
    channels_in: int,
    channels_out: int,
    stride: int,
    size: Size,
    shortcut: Shortcut,
    options: BinaryOptions,
) -> nn.Module:
    """Two units and the shortcuts around both or around each."""
    first, second = Window.of(2, 3, stride, 1), Window.of(2, 3, 1, 1)
    units = (
        style.unit(channels_in, channels_out, first, size, options),
        style.unit(channels_out, channels_out, second, first.output_size(size), options),
    )
    same = stride == 1 and channels_in == channels_out
    around = nn.Identity() if same else shortcut(channels_in, channels_out, stride, size, options)
    if style.units_per_shortcut == 2:
        return Residual(nn.Sequential(*units), around)
    return nn.Sequential(Residual(units[0], around), Residual(units[1], nn.Identity()))

# SPDX-License-Identifier: Apache-2.0
"""Binary layers: ``(sign(x) ⊛ sign(W)) ⊙ Γ + b`` with latent real weights W (XNOR-Net++)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from .scale import AnalyticScale, LearnedScale, make_scale
from .ste import check_sign, sign
from .window import Size, Window

Model = TypeVar("Model", bound=nn.Module)


class BinaryLayer(nn.Module):
    """What binary convolutions and linear layers share: latent weights, Γ, bias.

    The order is sign of the input, product with the sign of the weights, Γ, bias. XNOR-Net has its
    bias there too (α is a factor of its weights); the library of XNOR-Net++'s author adds it before
    Γ.

    Parameters
    ----------
    weight_shape : tuple of int
        Output channels first.
    window : Window
        Geometry; rank 0 for a linear layer.
    bias : bool
        Whether to learn a bias per output channel.
    scale : str
        See `models.scale`.
    map_size : int or tuple of int, optional
        Size of the *output* map; needed by the scales that vary over it.
    estimator, weight_estimator : str
        Gradient of the input's and of the weights' sign, see `models.ste`.
    sign_zero : {"0", "+1"}
        Sign of an exact 0 in input and weights.

    Attributes
    ----------
    weight : Parameter
        Latent real weights. They start as torch starts a real layer's: uniform in ±1/sqrt(fan-in),
        which lies inside of (-1, 1), where the estimators let gradients pass.
    bias : Parameter or None
        (o,)
    scale : Scale
        Γ.
    frozen : bool
        Whether `freeze_` has replaced the latent weights by their signs.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        weight_shape: tuple[int, ...],
        window: Window,
        *,
        bias: bool,
        scale: str,
        map_size: int | tuple[int, ...] | None,
        estimator: str,
        weight_estimator: str,
        sign_zero: str,
    ) -> None:
        super().__init__()
        check_sign(estimator, sign_zero)
        check_sign(weight_estimator, sign_zero)
        self.window = window
        self.estimator = estimator
        self.weight_estimator = weight_estimator
        self.sign_zero = sign_zero
        self.frozen = False
        self.weight = nn.Parameter(torch.empty(weight_shape))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if bias:
            self.bias = nn.Parameter(torch.zeros(weight_shape[0]))
        else:
            self.register_parameter("bias", None)
        self.scale = make_scale(scale, weight_shape[0], window, map_size)

    @property
    def fan_in(self) -> int:
        """K, the number of products in one accumulator away from the border."""
        return self.weight[0].numel()

    def binary_weight(self) -> Tensor:
        """Give the weights of the forward pass: ±1, and 0 for a latent 0 if sign(0) is 0."""
        if self.frozen:
            return self.weight
        return sign(self.weight, self.weight_estimator, self.sign_zero)

    def freeze_(self) -> BinaryLayer:
        """Replace the latent weights by their signs, for inference; the output stays the same.

        The graph then holds no sign of weights any more, which an engine without constant folding
        would compute at every call. Training cannot go on from it.

        Returns
        -------
        BinaryLayer
            This layer.
        """
        if not self.frozen:
            if isinstance(self.scale, AnalyticScale):
                self.scale.freeze_(self.weight)
            self.weight.data = self.binary_weight().detach().clone()
            self.weight.requires_grad_(False)
            self.frozen = True
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Parameters
        ----------
        x : Tensor
            (n, i), (n, i, l) or (n, i, h, w), floating point; only its signs matter, unless Γ has
            K.

        Returns
        -------
        Tensor
            (n, o), (n, o, l) or (n, o, h, w), dtype of `x`. Zero padding contributes 0, not ±1.

        Raises
        ------
        ValueError
            If Γ was made for another output map.
        """
        accumulators = self._multiply(sign(x, self.estimator, self.sign_zero), self.binary_weight())
        y: Tensor = self.scale(accumulators, x, self.weight)
        if self.bias is not None:
            y = y + self.bias.reshape(-1, *(1,) * self.window.rank)
        return y

    def _multiply(self, signs: Tensor, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Shape and options for ``print(model)``."""
        return (
            f"{tuple(self.weight.shape)}, {self.window}, sign(0)={self.sign_zero}, {self.estimator}"
        )


class _BinaryConv(BinaryLayer):
    _rank: int
    _conv: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        scale: str = "channel",
        map_size: int | tuple[int, ...] | None = None,
        estimator: str = "clipped",
        weight_estimator: str = "clipped",
        sign_zero: str = "0",
    ) -> None:
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{in_channels} input and {out_channels} output channels must both divide into "
                f"{groups} groups"
            )
        window = Window.of(self._rank, kernel_size, stride, padding, dilation, groups)
        super().__init__(
            (out_channels, in_channels // groups, *window.kernel),
            window,
            bias=bias,
            scale=scale,
            map_size=map_size,
            estimator=estimator,
            weight_estimator=weight_estimator,
            sign_zero=sign_zero,
        )

    def output_size(self, size: Size) -> Size:
        """Output map for an input map of `size`."""
        return self.window.output_size(size)

    def _multiply(self, signs: Tensor, weight: Tensor) -> Tensor:
        window = self.window
        return type(self)._conv(
            signs, weight, None, window.stride, window.padding, window.dilation, window.groups
        )


class BinaryConv1d(_BinaryConv):
    """Binary convolution over sequences, (n, i, l) to (n, o, l').

    The arguments are those of `torch.nn.Conv1d` (without ``bias`` by default) and the options of
    `BinaryLayer`. Scale ``channel×height×width`` does not exist here.
    """

    _rank = 1
    _conv = staticmethod(functional.conv1d)


class BinaryConv2d(_BinaryConv):
    """Binary convolution over images, (n, i, h, w) to (n, o, h', w').

    The arguments are those of `torch.nn.Conv2d` (without ``bias`` by default) and the options of
    `BinaryLayer`.

    Examples
    --------
    >>> layer = BinaryConv2d(8, 16, 3, padding=1, scale="channel×height×width", map_size=(5, 7))
    >>> tuple(layer(torch.randn(2, 8, 5, 7)).shape)
    (2, 16, 5, 7)
    """

    _rank = 2
    _conv = staticmethod(functional.conv2d)


class BinaryLinear(BinaryLayer):
    """Binary linear layer, (n, i) to (n, o).

    Γ is one of ``none``, ``channel``, ``analytic`` and ``analytic-input``; the options are those of
    `BinaryLayer`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        scale: str = "channel",
        estimator: str = "clipped",
        weight_estimator: str = "clipped",
        sign_zero: str = "0",
    ) -> None:
        super().__init__(
            (out_features, in_features),
            Window.of(0),
            bias=bias,
            scale=scale,
            map_size=None,
            estimator=estimator,
            weight_estimator=weight_estimator,
            sign_zero=sign_zero,
        )

    def _multiply(self, signs: Tensor, weight: Tensor) -> Tensor:
        return functional.linear(signs, weight)


def binary_layers(model: nn.Module) -> dict[str, BinaryLayer]:
    """Find the binary layers of a model by their qualified names, in the order of its modules."""
    return {name: m for name, m in model.named_modules() if isinstance(m, BinaryLayer)}


def name_layers(model: nn.Module) -> None:
    """Tell every scale factor the name of its layer, for messages."""
    for name, layer in binary_layers(model).items():
        if isinstance(layer.scale, LearnedScale):
            layer.scale.layer_name = name


def freeze_(model: Model) -> Model:
    """Apply `BinaryLayer.freeze_` to every binary layer of a model."""
    for layer in binary_layers(model).values():
        layer.freeze_()
    return model

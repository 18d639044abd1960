# SPDX-License-Identifier: Apache-2.0
"""The scale factor Γ behind a binary convolution: learned (XNOR-Net++) or analytic (XNOR-Net).

=========================== ======================================== ============
name                        Γ for an output of (o, h, w)             numbers
=========================== ======================================== ============
``none``                    1                                        0
``channel``                 α, α[o,1,1]                              o
``dense``                   α, α[o,h,w]                              o·h·w
``channel×spatial``         α ⊗ β, α[o,1,1], β[1,h,w]                o + h·w
``channel×height×width``    α ⊗ β ⊗ γ, α[o,1,1], β[1,h,1], γ[1,1,w]  o + h + w
``analytic``                α = mean |W| of each filter              0 (computed)
``analytic-input``          α · K, K = box filter of mean |x|        0 (computed)
=========================== ======================================== ============

Learned factors start at 1, as in the library of the paper's author, in legolas123's
re-implementation and in larq-zoo's rescale layer; the paper's text on it was not found. Nothing
constrains their signs.

The factors are multiplied onto the accumulators one after another and never with each other: the
exported graph then shows the factored form, and no constant folding can turn o + h + w numbers into
o·h·w.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .window import Size, Window, text

_AXES = {0: "c", 1: "cw", 2: "chw"}
"""Axes of one output map (channel, height, width) by the number of spatial axes."""

_FACTOR_NAMES = ("alpha", "beta", "gamma")


class Scale(nn.Module):
    """What stands between the accumulators of a binary layer and its bias."""

    def forward(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Scale the accumulators.

        Parameters
        ----------
        y : Tensor
            Accumulators, (n, o), (n, o, l) or (n, o, h, w), floating point with whole values.
        x : Tensor
            Input of the binary layer *before* its sign.
        weight : Tensor
            Latent real weights of the layer, output channels first.

        Returns
        -------
        Tensor
            Shape and dtype of `y`.
        """
        raise NotImplementedError


class LearnedScale(Scale):
    """Γ as an outer product of learned factors, constant at inference.

    Parameters
    ----------
    factors : tuple of str
        The axes that each factor has, of "c", "h", "w": ``("c", "h", "w")`` is case 4.
    name : str
        The name of this case, for messages.
    channels : int
        Output channels o.
    map_size : tuple of int
        Extents of the output map, () for a linear layer. They matter where a factor has a spatial
        axis.

    Attributes
    ----------
    layer_name : str
        The layer's name in its model, for messages; see `models.layers.name_layers`.
    alpha, beta, gamma : Parameter
        As many as there are factors, each with one axis per axis of (c, h, w), of extent 1 where
        the factor does not vary.
    """

    def __init__(self, factors: tuple[str, ...], name: str, channels: int, map_size: Size) -> None:
        super().__init__()
        self.name = name
        self.layer_name = ""
        self.map_size = map_size if any(set(axes) - {"c"} for axes in factors) else None
        rank = len(map_size)
        extents = dict(zip(_AXES[rank], (channels, *map_size), strict=True))
        self._factor_names = _FACTOR_NAMES[: len(factors)]
        for factor, axes in zip(self._factor_names, factors, strict=True):
            shape = [extents[axis] if axis in axes else 1 for axis in _AXES[rank]]
            self.register_parameter(factor, nn.Parameter(torch.ones(shape)))

    def factors(self) -> list[Tensor]:
        """List the factors whose outer product is Γ, each broadcastable against (o, h, w)."""
        return [cast(Tensor, getattr(self, factor)) for factor in self._factor_names]

    def full(self) -> Tensor:
        """Compute Γ itself, broadcastable against (o, h, w); the forward pass never does."""
        product = torch.ones(())
        for factor in self.factors():
            product = product.to(factor) * factor
        return product

    def forward(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """`y` times Γ.

        Raises
        ------
        ValueError
            If Γ has spatial factors and the map of `y` has another size than Γ was made for.
        """
        del x, weight
        if self.map_size is not None and tuple(y.shape[2:]) != self.map_size:
            layer = f"layer {self.layer_name!r}: " if self.layer_name else ""
            raise ValueError(
                f"{layer}scale {self.name!r} was made for output maps of {text(self.map_size)} "
                f"but got one of {text(y.shape[2:])}: feed inputs of the size that the model was "
                "built for, or build it for this size"
            )
        for factor in self.factors():
            y = y * factor
        return y

    def extra_repr(self) -> str:
        """Name and factor shapes for ``print(model)``."""
        return ", ".join([self.name, *(str(tuple(factor.shape)) for factor in self.factors())])


class AnalyticScale(Scale):
    """XNOR-Net's scale: mean |W| per filter, optionally times the input map K.

    α and its gradient into W come from the latent weights in every forward pass, until `freeze_`. K
    is a box filter (same kernel, stride, padding and dilation as the layer) over the mean of |x|
    across channels, (n, 1, h, w); for a linear layer it is the mean of |x|, (n, 1). It depends on
    the input, so that it stays in the graph at inference. XNOR-Net's own code leaves it out.

    Parameters
    ----------
    window : Window
        Geometry of the layer.
    input_map : bool
        Whether to multiply by K.

    Raises
    ------
    ValueError
        If K is asked for in a layer with groups, for which XNOR-Net does not define it.
    """

    alpha: Tensor | None
    box: Tensor

    def __init__(self, window: Window, *, input_map: bool = False) -> None:
        super().__init__()
        if input_map and window.groups != 1:
            raise ValueError(
                f"the input map K is not defined for {window.groups} groups; use scale 'analytic'"
            )
        self.window = window
        self.input_map = input_map
        self.register_buffer("alpha", None)
        if input_map:
            taps = torch.ones(1, 1, *window.kernel)
            self.register_buffer("box", taps / taps.numel(), persistent=False)

    def freeze_(self, weight: Tensor) -> None:
        """Keep mean |weight| as a constant, because the latent weights are about to go."""
        self.alpha = _mean_magnitude(weight.detach(), self.window.rank)

    def forward(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """`y` times mean |weight| and, with `input_map`, times K of `x`."""
        alpha = _mean_magnitude(weight, self.window.rank) if self.alpha is None else self.alpha
        y = y * alpha
        return y * self._box_filter(x.abs().mean(1, keepdim=True)) if self.input_map else y

    def _box_filter(self, magnitude: Tensor) -> Tensor:
        window = self.window
        if window.rank == 0:
            return magnitude
        return _CONV[window.rank](
            magnitude,
            self.box.to(magnitude.dtype),
            None,
            window.stride,
            window.padding,
            window.dilation,
        )

    def extra_repr(self) -> str:
        """Form of the scale for ``print(model)``."""
        return "mean |W| · K" if self.input_map else "mean |W|"


_CONV: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d}


def _mean_magnitude(weight: Tensor, rank: int) -> Tensor:
    """Mean |W| per filter: (o,) for rank 0, (o, 1) for 1, (o, 1, 1) for 2."""
    return weight.abs().flatten(1).mean(1).reshape(-1, *(1,) * rank)


@dataclass(frozen=True)
class ScaleKind:
    """One row of `SCALES`.

    Parameters
    ----------
    make : callable
        ``make(channels, window, map_size)`` gives the module.
    linear : str
        The kind that a network uses in its linear layers when its convolutions use this one.
    ranks : frozenset of int
        Numbers of spatial axes for which the kind exists.
    spatial : bool
        Whether the module depends on the size of the output map.
    """

    make: Callable[[int, Window, Size], Scale]
    linear: str
    ranks: frozenset[int] = frozenset({0, 1, 2})
    spatial: bool = False


def _learned(name: str, *factors: str) -> Callable[[int, Window, Size], Scale]:
    def make(channels: int, window: Window, map_size: Size) -> Scale:
        return LearnedScale(factors, name, channels, map_size)

    return make


def _analytic(channels: int, window: Window, map_size: Size, *, input_map: bool) -> Scale:
    return AnalyticScale(window, input_map=input_map)


_MAPS = frozenset({1, 2})
_IMAGES = frozenset({2})

SCALES: dict[str, ScaleKind] = {
    "none": ScaleKind(_learned("none"), "none"),
    "channel": ScaleKind(_learned("channel", "c"), "channel"),
    "dense": ScaleKind(_learned("dense", "chw"), "channel", _MAPS, True),
    "channel×spatial": ScaleKind(_learned("channel×spatial", "c", "hw"), "channel", _MAPS, True),
    "channel×height×width": ScaleKind(
        _learned("channel×height×width", "c", "h", "w"), "channel", _IMAGES, True
    ),
    "analytic": ScaleKind(partial(_analytic, input_map=False), "analytic"),
    "analytic-input": ScaleKind(partial(_analytic, input_map=True), "analytic-input"),
}
"""The scale factors by name."""

CASES = ("channel", "dense", "channel×spatial", "channel×height×width")
"""The four cases of XNOR-Net++, in the paper's order."""

ALIASES = {
    "channel-spatial": "channel×spatial",
    "channel-height-width": "channel×height×width",
}
"""Spellings of the names without the multiplication sign."""


def scale_kind(name: str, rank: int | None = None) -> tuple[str, ScaleKind]:
    """Look up the full name and the row of a scale.

    Parameters
    ----------
    name : str
        A key of `SCALES` or of `ALIASES`.
    rank : int, optional
        Number of spatial axes of the layer that shall have it.

    Raises
    ------
    ValueError
        For an unknown name or one that does not exist for `rank`, naming the valid ones.
    """
    full = ALIASES.get(name, name)
    valid = [key for key, kind in SCALES.items() if rank is None or rank in kind.ranks]
    if full not in valid:
        where = {None: "", 0: " of a linear layer", 1: " of a 1-D convolution"}.get(rank, "")
        raise ValueError(f"unknown scale{where} {name!r}; valid: {', '.join(valid)}")
    return full, SCALES[full]


def make_scale(
    name: str, channels: int, window: Window, map_size: int | tuple[int, ...] | None = None
) -> Scale:
    """Build a scale factor.

    Parameters
    ----------
    name : str
        See the table on top of this file; ``channel-spatial`` and ``channel-height-width`` also
        work.
    channels : int
        Output channels o.
    window : Window
        Geometry of the layer (rank 0 for a linear one).
    map_size : int or tuple of int, optional
        Output map, (h, w) or (l,); needed by the cases that vary over it.

    Returns
    -------
    Scale
        Learned factors are float32 ones.

    Raises
    ------
    ValueError
        For an unknown name, or a missing or misshapen `map_size`.

    Examples
    --------
    >>> scale = make_scale("channel-height-width", 64, Window.of(2, 3), map_size=(56, 40))
    >>> [tuple(factor.shape) for factor in scale.parameters()]
    [(64, 1, 1), (1, 56, 1), (1, 1, 40)]
    """
    full, kind = scale_kind(name, window.rank)
    if map_size is None:
        if kind.spatial:
            raise ValueError(
                f"scale {full!r} has numbers per output position; pass map_size, the output map"
            )
        map_size = (1,) * window.rank
    return kind.make(channels, window, _checked(map_size, window.rank))


def _checked(map_size: int | tuple[int, ...], rank: int) -> Size:
    size = (map_size,) * rank if isinstance(map_size, int) else tuple(map_size)
    if len(size) != rank or min(size, default=1) < 1:
        raise ValueError(f"map_size must be {rank} positive numbers, got {map_size}")
    return size

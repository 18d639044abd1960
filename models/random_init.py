# SPDX-License-Identifier: Apache-2.0
"""Random parameters as a trained network might have: nothing folds to the identity.

A freshly built network has Γ = 1, batch norms that do nothing and no negative factor; a compiler
that drops or misorders any of them would go unnoticed. After `randomize_` every factor matters,
activations keep the order of magnitude of 1 from layer to layer, and the logits depend on the
input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import BinaryNetwork
from .layers import BinaryLayer
from .quicknet import Blur
from .scale import AnalyticScale, LearnedScale

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class _Draw:
    """The random source, and the shares of what is drawn from it."""

    generator: torch.Generator
    negative: float
    zero: float
    negative_slope: float

    def uniform_(self, tensor: Tensor, low: float, high: float) -> None:
        values = torch.rand(tensor.shape, generator=self.generator)
        tensor.copy_(values * (high - low) + low)

    def normal_(self, tensor: Tensor, std: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=self.generator) * std)

    def factor_(self, tensor: Tensor, magnitude: float) -> None:
        """Magnitudes within ±50 % of `magnitude`, a share of them negative, a share exactly 0."""
        self.uniform_(tensor, 0.5 * magnitude, 1.5 * magnitude)
        order = torch.randperm(tensor.numel(), generator=self.generator)
        negative, zero = self._count(tensor, self.negative), self._count(tensor, self.zero)
        flat = tensor.flatten()
        flat[order[:negative]] *= -1
        flat[order[tensor.numel() - zero :]] = 0
        tensor.copy_(flat.reshape(tensor.shape))

    def slope_(self, tensor: Tensor) -> None:
        self.uniform_(tensor, 0.05, 0.45)
        order = torch.randperm(tensor.numel(), generator=self.generator)
        flat = tensor.flatten()
        flat[order[: self._count(tensor, self.negative_slope)]] *= -1
        tensor.copy_(flat.reshape(tensor.shape))

    @staticmethod
    def _count(tensor: Tensor, share: float) -> int:
        # At least one if the share is not 0, never most of a short vector.
        size = tensor.numel()
        return min(max(round(share * size), math.ceil(share)), size // 2)


def _binary(layer: BinaryLayer, draw: _Draw) -> None:
    # mean |W| is XNOR-Net's scale: it has to shrink accumulators of about sqrt(K) back to 1.
    bound = 1 / math.sqrt(layer.fan_in)
    per_filter = torch.empty(layer.weight.shape[0], *[1] * (layer.weight.dim() - 1))
    draw.uniform_(per_filter, 0.5 * bound, 1.5 * bound)
    draw.uniform_(layer.weight, 0.1, 1.9)
    flips = torch.rand(layer.weight.shape, generator=draw.generator) < 0.5
    layer.weight.mul_(torch.where(flips, -1.0, 1.0)).mul_(per_filter)
    if layer.bias is not None:
        draw.uniform_(layer.bias, -0.5, 0.5)
    if isinstance(layer.scale, LearnedScale):
        for position, factor in enumerate(layer.scale.factors()):
            draw.factor_(factor, bound if position == 0 else 1.0)


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, draw: _Draw) -> None:
    if layer.running_mean is not None and layer.running_var is not None:
        draw.uniform_(layer.running_mean, -0.5, 0.5)
        draw.uniform_(layer.running_var, 0.5, 2.0)
    if layer.affine:
        draw.factor_(layer.weight, 1.0)
        draw.uniform_(layer.bias, -0.5, 0.5)


def _real(layer: nn.Conv2d | nn.Linear, draw: _Draw) -> None:
    draw.normal_(layer.weight, 1 / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        draw.uniform_(layer.bias, -0.5, 0.5)


def _prelu(layer: nn.PReLU, draw: _Draw) -> None:
    draw.slope_(layer.weight)


_RULES: tuple[tuple[tuple[type[nn.Module], ...], Callable[..., None]], ...] = (
    ((BinaryLayer,), _binary),
    (
        (LearnedScale, AnalyticScale, Blur),
        lambda layer, draw: None,
    ),  # drawn with the layer they belong to, or fixed
    ((nn.BatchNorm1d, nn.BatchNorm2d), _batch_norm),
    ((nn.Conv2d, nn.Linear), _real),
    ((nn.PReLU,), _prelu),
)


@torch.no_grad()
def randomize_(
    model: Model,
    seed: int = 0,
    *,
    negative: float = 0.25,
    zero: float = 0.0,
    negative_slope: float = 0.0,
) -> Model:
    """Fill a model with random parameters, in place.

    Parameters
    ----------
    model : nn.Module
        A network of this package (one forward pass is run, to spread its logits), or any module
        made of its layers, batch norm, `nn.Conv2d`, `nn.Linear` and `nn.PReLU`.
    seed : int
        The same seed gives the same parameters, whatever torch's global generator does. (The last
        layer of a network is scaled by logits that it gives, to rounding errors of this machine.)
    negative : float
        Share of the scale factors and of the batch-norm weights that is negative, in each tensor.
    zero : float
        Share of the same that is exactly 0.
    negative_slope : float
        Share of the PReLU slopes that is negative; the others lie in 0.05 ... 0.45.

    Returns
    -------
    nn.Module
        `model`.

    Raises
    ------
    TypeError
        For a module with parameters or buffers that this function does not know.
    ValueError
        For a share outside of 0 ... 0.5, or a frozen binary layer, which has no latent weights.
    """
    for share in (negative, zero, negative_slope):
        if not 0 <= share <= 0.5:
            raise ValueError(f"a share must lie in 0 ... 0.5, got {share}")
    draw = _Draw(torch.Generator().manual_seed(seed), negative, zero, negative_slope)
    for name, module in model.named_modules():
        if not any(True for _ in module.parameters(recurse=False)) and not any(
            True for _ in module.buffers(recurse=False)
        ):
            continue
        rule = next((rule for kinds, rule in _RULES if isinstance(module, kinds)), None)
        if rule is None:
            raise TypeError(f"cannot randomize {name!r}: no rule for a {type(module).__name__}")
        if isinstance(module, BinaryLayer) and module.frozen:
            raise ValueError(f"cannot randomize {name!r}: its latent weights were frozen to signs")
        rule(module, draw)
    if isinstance(model, BinaryNetwork):
        _spread_logits_(model, draw)
    return model


def _spread_logits_(model: BinaryNetwork, draw: _Draw) -> None:
    """Centre and scale the logits by the last layer, so that they tell inputs apart.

    A random network averages its features over the map, and what they have in common for all inputs
    is several times larger than what differs: the top class would hardly ever change.
    """
    training = model.training
    model.eval()
    seed = int(torch.randint(2**31, (), generator=draw.generator))
    logits = model(random_input(model, batch=8, seed=seed).to(model.fc.weight))
    model.train(training)
    common = logits.mean(0)
    spread = (logits - common).std()
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    model.fc.weight /= spread
    shift = torch.empty(common.shape)
    draw.uniform_(shift, -0.5, 0.5)
    model.fc.bias.sub_(common).div_(spread).add_(shift.to(common))


def random_input(model: BinaryNetwork, batch: int = 1, seed: int = 0) -> Tensor:
    """Image-like random inputs: smooth shapes of its own for every image, plus noise.

    White noise alone would do badly: behind a global average pool one noise image looks like the
    next.

    Parameters
    ----------
    model : BinaryNetwork
        Whose `input_shape` (c, h, w) counts.
    batch : int
        Number of images n.
    seed : int
        The same seed gives the same images.

    Returns
    -------
    Tensor
        (n, c, h, w), float32, of the order of 1.
    """
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = model.input_shape
    coarse = torch.randn(batch, channels, 4, 4, generator=generator)
    smooth = functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return smooth + 0.3 * torch.randn(batch, channels, height, width, generator=generator)

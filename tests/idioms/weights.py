# SPDX-License-Identifier: Apache-2.0
"""How people compute binary weights in forward, for filters of any shape (O, I, ...)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Weight(nn.Module):
    """A parameter, and the weight that forward makes of it.

    Attributes
    ----------
    two_valued : bool
        Whether each filter ends with values ±s.
    least : int
        Smallest number of elements of a filter for which the spelling is defined.
    """

    two_valued = True
    least = 1

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self) -> Tensor:
        """Return the weight of the layer."""
        raise NotImplementedError


def per_filter(values: Tensor, like: Tensor) -> Tensor:
    """Shape one number per filter so that it broadcasts."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def mean_magnitude(w: Tensor) -> Tensor:
    """Mean of |w| over each filter, axis by axis as XNOR-Net's ports write it."""
    mean = w.abs()
    for axis in range(w.dim() - 1, 0, -1):
        mean = mean.mean(axis, keepdim=True)
    return mean


def _rest(w: Tensor) -> list[int]:
    return list(range(1, w.dim()))


class Stored(Weight):
    """The training code binarised the parameter itself."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight.sign() * mean_magnitude(weight))

    def forward(self) -> Tensor:
        return self.weight


class Sign(Weight):
    """Nothing but sign."""

    def forward(self) -> Tensor:
        return self.weight.sign()


class FlatParameter(Weight):
    """The parameter has shape (N, 1)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight.reshape(-1, 1))
        self.shape = tuple(weight.shape)

    def forward(self) -> Tensor:
        return self.weight.view(self.shape).sign()


class MeanPerFilter(Weight):
    """XNOR-Net: sign(W) · mean|W| per filter."""

    def forward(self) -> Tensor:
        return self.weight.sign() * self.weight.abs().mean(_rest(self.weight), keepdim=True)


class MeanPerLayer(Weight):
    """sign(W) · mean|W| over the whole layer."""

    def forward(self) -> Tensor:
        return self.weight.sign() * self.weight.abs().mean()


class Surrogate(Weight):
    """Straight-through estimator with clipped surrogate, scale mean |w|."""

    def forward(self) -> Tensor:
        w = self.weight
        scale = mean_magnitude(w).detach()
        real = scale * torch.sign(w)
        clipped = torch.clamp(w, -1.0, 1.0)
        return real.detach() - clipped.detach() + clipped


class Centred(Weight):
    """XNOR-Net: mean-centred over the input channels, clamped, signed."""

    least = 2

    def forward(self) -> Tensor:
        w = self.weight
        centred = w + w.mean(1, keepdim=True).mul(-1).expand_as(w).contiguous()
        clipped = centred.clamp(-1, 1)
        return clipped.sign() - clipped.detach() + clipped


class CentredScaled(Weight):
    """XNOR-Net: centred, sign times the L1 norm per filter."""

    least = 2

    def forward(self) -> Tensor:
        w = self.weight - self.weight.mean(1, keepdim=True).expand_as(self.weight)
        n = w[0].nelement()
        m = w.norm(1, w.dim() - 1, keepdim=True)
        for axis in range(w.dim() - 2, 0, -1):
            m = m.sum(axis, keepdim=True)
        return w.sign().mul(m.div_(n).expand_as(w))


class IrNet(Weight):
    """IR-Net: standardised, sign times a power of two."""

    least = 2

    def forward(self) -> Tensor:
        w = self.weight
        w = w - per_filter(w.view(w.size(0), -1).mean(-1), w)
        w = w / per_filter(w.view(w.size(0), -1).std(-1), w)
        magnitude = w.abs().view(w.size(0), -1).mean(-1)
        two = torch.tensor([2.0], dtype=w.dtype)
        scale = torch.pow(two, (magnitude.log() / math.log(2.0)).round())
        return w.sign() * per_filter(scale, w).detach()


class ReCu(Weight):
    """ReCU: clamped to a quantile that goes through a Python number."""

    least = 2

    def forward(self) -> Tensor:
        w = self.weight / self.weight.var(_rest(self.weight), keepdim=True).sqrt()
        bound = (w.std() * 1.5).detach().item()
        return w.clamp(-bound, bound).sign()


class Rotated(Weight):
    """RBNN: weights rotated by two matrices before the sign."""

    least = 2

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        inner = weight[0, 0].numel()
        seeded = torch.Generator().manual_seed(0)
        for name, size in (("left", weight.shape[1]), ("right", inner)):
            square = torch.randn(size, size, generator=seeded)
            self.register_buffer(name, torch.linalg.qr(square)[0])
        self.angle = nn.Parameter(torch.tensor([0.7]))
        self.flat = (weight.shape[0], weight.shape[1], inner)

    def forward(self) -> Tensor:
        w = self.weight / per_filter(self.weight.view(self.flat[0], -1).std(1), self.weight)
        rotated = (self.left.t() @ w.view(self.flat) @ self.right).view_as(w)
        return (w + torch.abs(torch.sin(self.angle)) * (rotated - w).detach()).sign()


class SignOfZeroOne(Weight):
    """bitorch: sign with sign(0) = +1."""

    def forward(self) -> Tensor:
        s = torch.sign(self.weight)
        return torch.where(s == 0, torch.tensor(1.0, dtype=s.dtype), s)


class ZeroOneTimesScale(Weight):
    """brevitas: (w >= 0)·2 - 1 times a scale that is computed from constants."""

    def forward(self) -> Tensor:
        w = self.weight
        ones = torch.ones(w.size(0), *[1] * (w.dim() - 1), dtype=w.dtype)
        return ((w >= 0).to(w.dtype) * 2 - 1) * (ones * w.abs().mean() / 2.0)


class TanhNormalised(Weight):
    """DoReFa: tanh, scaled to [0, 1], rounded."""

    def forward(self) -> Tensor:
        w = torch.tanh(self.weight)
        w = w / w.abs().max() * 0.5 + 0.5
        return torch.round(w) * 2 - 1


class MaskAssigned(Weight):
    """micronet: zeros of the sign assigned by a boolean mask."""

    def forward(self) -> Tensor:
        s = self.weight.sign()
        s[s == 0] = 1
        return s


class LearnedPowerOfTwo(Weight):
    """A learned scale, some of it negative and zero, raised to a power of two."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        filters = torch.arange(weight.shape[0])
        self.exponent = nn.Parameter(torch.tensor([1.2, -0.6, 0.0, 2.4, -3.0, 0.4])[filters % 6])
        self.factor = nn.Parameter(torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0, 1.0])[filters % 6])

    def forward(self) -> Tensor:
        return self.weight.sign() * per_filter(
            self.factor * 2 ** self.exponent.round(), self.weight
        )


class AdaBin(Weight):
    """AdaBin: two levels that are not symmetric about zero."""

    two_valued = False
    least = 2

    def forward(self) -> Tensor:
        w = self.weight
        beta = w.mean(_rest(w), keepdim=True)
        alpha = torch.sqrt(((w - beta) ** 2).sum(_rest(w), keepdim=True) / w[0].numel())
        return torch.sign((w - beta) / alpha) * alpha + beta


class Real(Weight):
    """Weights that are not binary."""

    two_valued = False

    def forward(self) -> Tensor:
        return self.weight


WEIGHTS: dict[str, type[Weight]] = {
    cls.__name__: cls
    for cls in (
        *(Stored, Sign, FlatParameter, MeanPerFilter, MeanPerLayer, Surrogate, Centred),
        *(CentredScaled, IrNet, ReCu, Rotated, SignOfZeroOne, ZeroOneTimesScale, TanhNormalised),
        *(MaskAssigned, LearnedPowerOfTwo, AdaBin, Real),
    )
}
"""Spelling by name."""

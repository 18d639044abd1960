# SPDX-License-Identifier: Apache-2.0
"""However a model computes its weights from its parameters: they arrive as constants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.frontend.nets import WAYS, Named, assert_same, calls, outputs
from xnortvm.frontend import import_model
from xnortvm.frontend.names import layer_name
from xnortvm.graph.dataflow import is_const

SHAPE = (6, 4, 3, 3)


class Conv(nn.Module):
    """A convolution whose weight is computed in forward."""

    two_valued = True

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*(shape or SHAPE)))

    def binary(self) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.binary(), padding=1)


def mean_magnitude(w: Tensor) -> Tensor:
    return w.abs().mean(3, keepdim=True).mean(2, keepdim=True).mean(1, keepdim=True)


class Stored(Conv):
    """The training code binarised the parameter itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight.data = self.weight.sign() * mean_magnitude(self.weight)

    def binary(self) -> Tensor:
        return self.weight


class Sign(Conv):
    def binary(self) -> Tensor:
        return self.weight.sign()


class FlatParameter(Conv):
    """The parameter has shape (N, 1)."""

    def __init__(self) -> None:
        super().__init__(6 * 4 * 9, 1)

    def binary(self) -> Tensor:
        return self.weight.view(SHAPE).sign()


class Surrogate(Conv):
    """Straight-through estimator with clipped surrogate, scale mean |w|."""

    def binary(self) -> Tensor:
        w = self.weight
        scale = mean_magnitude(w).detach()
        real = scale * torch.sign(w)
        clipped = torch.clamp(w, -1.0, 1.0)
        return real.detach() - clipped.detach() + clipped


class Centred(Conv):
    """XNOR-Net: mean-centred over the input channels, clamped, signed."""

    def binary(self) -> Tensor:
        w = self.weight
        centred = w + w.mean(1, keepdim=True).mul(-1).expand_as(w).contiguous()
        clipped = centred.clamp(-1, 1)
        return clipped.sign() - clipped.detach() + clipped


class CentredScaled(Conv):
    """XNOR-Net: centred, sign times the L1 norm per filter."""

    def binary(self) -> Tensor:
        w = self.weight - self.weight.mean(1, keepdim=True).expand_as(self.weight)
        n = w[0].nelement()
        m = w.norm(1, 3, keepdim=True).sum(2, keepdim=True).sum(1, keepdim=True).div_(n)
        return w.sign().mul(m.expand_as(w))


class IrNet(Conv):
    """IR-Net: standardised, sign times a power of two."""

    def binary(self) -> Tensor:
        w = self.weight
        flat = w.view(w.size(0), -1)
        w = w - flat.mean(-1).view(-1, 1, 1, 1)
        w = w / w.view(w.size(0), -1).std(-1).view(-1, 1, 1, 1)
        magnitude = w.abs().view(w.size(0), -1).mean(-1)
        scale = torch.pow(torch.tensor([2.0]), (magnitude.log() / np.log(2.0)).round().float())
        return w.sign() * scale.view(-1, 1, 1, 1).detach()


class ReCu(Conv):
    """ReCU: clamped to a quantile that goes through a Python number."""

    def binary(self) -> Tensor:
        w = self.weight / self.weight.var([1, 2, 3], keepdim=True).sqrt()
        bound = (w.std() * 1.5).detach().item()
        return w.clamp(-bound, bound).sign()


class RotatedWeights(Conv):
    """RBNN: weights rotated by two matrices before the sign."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("left", torch.linalg.qr(torch.randn(4, 4))[0])
        self.register_buffer("right", torch.linalg.qr(torch.randn(9, 9))[0])
        self.angle = nn.Parameter(torch.randn(1))

    def binary(self) -> Tensor:
        w = self.weight / self.weight.view(6, -1).std(1).view(6, 1, 1, 1)
        rotated = (self.left.t() @ w.view(6, 4, 9) @ self.right).view_as(w)
        return (w + torch.abs(torch.sin(self.angle)) * (rotated - w).detach()).sign()


class SignOfZeroOne(Conv):
    """bitorch: sign with sign(0) = +1."""

    def binary(self) -> Tensor:
        s = torch.sign(self.weight)
        return torch.where(s == 0, torch.tensor(1.0), s)


class ZeroOneTimesScale(Conv):
    """brevitas: (w >= 0)·2 - 1 times a scale that is computed from constants."""

    def binary(self) -> Tensor:
        scale = torch.ones(6, 1, 1, 1) * self.weight.abs().mean() / 2.0
        return ((self.weight >= 0).float() * 2 - 1) * scale


class AdaBin(Conv):
    """AdaBin: two levels that are not symmetric about zero."""

    two_valued = False

    def binary(self) -> Tensor:
        w = self.weight
        beta = w.mean((1, 2, 3), keepdim=True)
        alpha = torch.sqrt(((w - beta) ** 2).sum((1, 2, 3), keepdim=True) / 36)
        return torch.sign((w - beta) / alpha) * alpha + beta


class TanhNormalised(Conv):
    """DoReFa: tanh, scaled to [0, 1], rounded."""

    def binary(self) -> Tensor:
        w = torch.tanh(self.weight)
        w = w / w.abs().max() * 0.5 + 0.5
        return torch.round(w) * 2 - 1


class MaskAssigned(Conv):
    """micronet: zeros of the sign assigned by a boolean mask."""

    def binary(self) -> Tensor:
        s = self.weight.sign()
        s[s == 0] = 1
        return s


class LearnedPowerOfTwo(Conv):
    """A learned scale, some of it negative and zero, raised to a power of two."""

    two_valued = True

    def __init__(self) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor([1.2, -0.6, 0.0, 2.4, -3.0, 0.4]))
        self.factor = nn.Parameter(torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0, 1.0]))

    def binary(self) -> Tensor:
        scale = self.factor * 2 ** self.exponent.round()
        return self.weight.sign() * scale.view(6, 1, 1, 1)


ROWS = {
    cls.__name__: cls
    for cls in (
        *(Stored, Sign, FlatParameter, Surrogate, Centred, CentredScaled, IrNet, ReCu),
        *(RotatedWeights, SignOfZeroOne, ZeroOneTimesScale, AdaBin, TanhNormalised),
        *(MaskAssigned, LearnedPowerOfTwo),
    )
}


@pytest.fixture(scope="module", params=list(WAYS))
def imported_rows(request, tmp_path_factory):
    """Every row imported together: module, results of the import and of eager PyTorch by row."""
    torch.manual_seed(3)
    module = Named({name: row() for name, row in ROWS.items()}).eval()
    x = torch.randn(1, 4, 5, 6)
    imported = WAYS[request.param](module, x, tmp_path_factory.mktemp("weights"))
    with torch.no_grad():
        expected = module(x)
    weights = {
        layer_name(call).rpartition(".")[2]: call.args[1] for call in calls(imported, "nn.conv2d")
    }
    found = dict(zip(expected, outputs(imported, x), strict=True))
    return module, weights, found, expected


@pytest.mark.parametrize("row", ROWS)
def test_weights_computed_from_parameters_are_constants(imported_rows, row):
    _, weights, _, _ = imported_rows
    assert is_const(weights[row])


@pytest.mark.parametrize("row", [name for name, cls in ROWS.items() if cls.two_valued])
def test_binarised_weights_have_two_values_per_filter(imported_rows, row):
    _, weights, _, _ = imported_rows
    value = np.abs(weights[row].value.numpy()).reshape(6, -1)
    assert (np.ptp(value, axis=1) <= 1e-4 * value.max(axis=1)).all()


@pytest.mark.parametrize("row", ROWS)
def test_layer_computes_what_eager_computes(imported_rows, row):
    _, _, found, expected = imported_rows
    assert_same(found[row], expected[row])


class SharedWeight(Sign):
    """Computes the same weight for two convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(x.sign())


def test_weights_computed_twice_are_one_constant():
    imported = import_model(SharedWeight(), torch.randn(1, 4, 5, 6))
    first, second = calls(imported, "nn.conv2d")
    assert first.args[1].same_as(second.args[1])


class Chosen(nn.Module):
    """Weights mixed by a gate that looks at the input."""

    def __init__(self) -> None:
        super().__init__()
        self.bank = nn.Parameter(torch.randn(3, 6 * 36))
        self.gate = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.gate(x.mean((0, 2, 3))) @ self.bank).view(SHAPE).sign()
        return functional.conv2d(x, weight)


def test_does_not_fold_weights_that_the_input_chooses():
    x = torch.randn(1, 4, 5, 5)
    imported = import_model(Chosen(), x)
    (conv,) = calls(imported, "nn.conv2d")
    assert not is_const(conv.args[1])


def test_random_weights_are_refused_rather_than_frozen():
    def forward(x):
        return functional.linear(x, torch.randn(3, 4).sign())

    from tests.frontend.nets import Function
    from xnortvm.errors import ModelError

    with pytest.raises(ModelError, match=r"randn.*draws random numbers"):
        import_model(Function(forward), torch.ones(1, 4))

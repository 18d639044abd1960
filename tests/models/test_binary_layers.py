# SPDX-License-Identifier: Apache-2.0
"""Promises of xnortvm.models.layers."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from xnortvm.models import (
    SCALES,
    BinaryConv1d,
    BinaryConv2d,
    BinaryLayer,
    BinaryLinear,
    freeze_,
    randomize_,
)

# in, out, kernel, stride, padding, dilation, groups, (height, width)
SHAPES: list[tuple[Any, ...]] = [
    (5, 7, 3, 1, 1, 1, 1, (6, 5)),
    (8, 4, (3, 2), (2, 1), (1, 0), 1, 2, (7, 4)),
    (6, 6, 3, 1, 2, 2, 6, (5, 5)),
    (33, 2, 1, 2, 0, 1, 1, (3, 5)),
    (4, 3, (1, 5), 1, (0, 2), (1, 2), 1, (1, 7)),
    (1, 1, 1, 1, 0, 1, 1, (1, 1)),
]


def inputs(*shape: int, seed: int = 0, zeros: bool = True) -> torch.Tensor:
    """Whole numbers, so that exact zeros are frequent; without them if not wanted."""
    x = torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).float()
    return x if zeros else x + 0.5


def slow_conv(layer: BinaryConv2d, x: torch.Tensor) -> np.ndarray[Any, Any]:
    """Accumulators of a binary convolution, one product at a time."""

    def signs(a: torch.Tensor) -> np.ndarray[Any, Any]:
        a_np = a.detach().numpy()
        return np.sign(a_np) if layer.sign_zero == "0" else np.where(a_np >= 0, 1.0, -1.0)

    window, a, w = layer.window, signs(x), signs(layer.weight)
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = (
        window.kernel,
        window.stride,
        window.padding,
        window.dilation,
    )
    channels_out, per_group = w.shape[:2]
    height, width = window.output_size(tuple(x.shape[2:]))
    result = np.zeros((x.shape[0], channels_out, height, width))
    for n, o, p, q in np.ndindex(*result.shape):
        first = o // (channels_out // window.groups) * per_group
        for c, i, j in product(range(per_group), range(kh), range(kw)):
            row, column = p * sh - ph + i * dh, q * sw - pw + j * dw
            if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                result[n, o, p, q] += a[n, first + c, row, column] * w[o, c, i, j]
    return result


@pytest.mark.parametrize("sign_zero", ["0", "+1"])
@pytest.mark.parametrize("shape", SHAPES)
def test_accumulators_equal_the_slow_loops_exactly(shape: tuple[Any, ...], sign_zero: str) -> None:
    *conv, size = shape
    layer = randomize_(BinaryConv2d(*conv, scale="none", sign_zero=sign_zero))
    layer.weight.data.view(-1)[::5] = 0
    x = inputs(2, shape[0], *size)
    assert np.array_equal(layer(x).detach().numpy(), slow_conv(layer, x))


@pytest.mark.parametrize("shape", SHAPES)
def test_map_size_of_a_spatial_scale_is_the_output_size(shape: tuple[Any, ...]) -> None:
    *conv, size = shape
    out = BinaryConv2d(*conv, scale="none").output_size(size)
    layer = BinaryConv2d(*conv, scale="dense", map_size=out)
    assert tuple(layer(inputs(1, shape[0], *size)).shape) == (1, shape[1], *out)


def test_zero_padding_contributes_nothing() -> None:
    layer = BinaryConv2d(1, 1, 3, padding=1, scale="none")
    layer.weight.data.fill_(0.3)
    y = layer(torch.full((1, 1, 4, 3), 0.2))
    assert y[0, 0].tolist() == [[4, 6, 4], [6, 9, 6], [6, 9, 6], [4, 6, 4]]


def test_conv1d_is_conv2d_over_maps_of_height_one() -> None:
    one = randomize_(BinaryConv1d(6, 4, 3, 2, 1, 2, 2, bias=True, scale="dense", map_size=4))
    two = BinaryConv2d(
        6, 4, (1, 3), (1, 2), (0, 1), (1, 2), 2, bias=True, scale="dense", map_size=(1, 4)
    )
    with torch.no_grad():
        for name, target in two.named_parameters():
            target.copy_(one.get_parameter(name).reshape(target.shape))
    x = inputs(2, 6, 9)
    assert torch.equal(one(x), two(x[:, :, None])[:, :, 0])


def test_linear_is_conv2d_with_one_tap() -> None:
    linear = randomize_(BinaryLinear(40, 7, bias=True))
    conv = BinaryConv2d(40, 7, 1, bias=True)
    with torch.no_grad():
        for name, target in conv.named_parameters():
            target.copy_(linear.get_parameter(name).reshape(target.shape))
    x = inputs(3, 40)
    assert torch.equal(linear(x), conv(x[:, :, None, None])[:, :, 0, 0])


def test_bias_comes_after_the_scale() -> None:
    layer = BinaryLinear(3, 1, bias=True)
    layer.weight.data.fill_(1)
    layer.scale.alpha.data.fill_(10)
    assert layer.bias is not None
    layer.bias.data.fill_(0.5)
    assert layer(torch.ones(1, 3)).item() == 30.5


def test_only_signs_of_input_and_weights_matter() -> None:
    layer = randomize_(BinaryConv2d(4, 4, 3, padding=1))
    x = inputs(1, 4, 5, 5, zeros=False)
    before = layer(x)
    layer.weight.data *= 7
    assert torch.equal(layer(x * 0.01), before)


def test_gradient_of_the_input_is_that_of_its_estimator() -> None:
    x = torch.tensor([[-2.0, -0.5, 0.25, 1.0]])
    expected = {"clipped": [0.0, 1.0, 1.0, 0.0], "polynomial": [0.0, 1.0, 1.5, 0.0]}
    for estimator, slopes in expected.items():
        layer = BinaryLinear(4, 1, scale="none", estimator=estimator)
        layer.weight.data = torch.tensor([[0.5, -0.5, 0.5, 0.5]])
        (grad,) = torch.autograd.grad(layer(x.requires_grad_(True)).sum(), x)
        weight = [1.0, -1.0, 1.0, 1.0]
        assert grad.tolist() == [[s * w for s, w in zip(slopes, weight, strict=True)]]


def test_gradient_of_the_latent_weights_is_that_of_their_estimator() -> None:
    expected = {"clipped": [0.0, 1.0, 1.0], "polynomial": [0.0, 1.0, 1.5]}
    for estimator, slopes in expected.items():
        layer = BinaryLinear(3, 1, scale="none", weight_estimator=estimator)
        layer.weight.data = torch.tensor([[-2.0, -0.5, 0.25]])
        (grad,) = torch.autograd.grad(layer(torch.tensor([[1.0, -1.0, 1.0]])).sum(), layer.weight)
        assert grad.tolist() == [[slopes[0], -slopes[1], slopes[2]]]


def test_latent_weights_start_where_gradients_pass() -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(16, 16, 3)
    assert 0 < layer.weight.abs().max() < 1
    assert (layer.weight < 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("scale", SCALES)
def test_freezing_does_not_change_the_output(scale: str) -> None:
    layer = BinaryConv2d(4, 8, 3, padding=1, scale=scale, map_size=(5, 6), bias=True)
    randomize_(layer, 1)
    x = inputs(2, 4, 5, 6)
    before = layer(x)
    freeze_(nn.Sequential(layer))
    assert set(layer.weight.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(layer(x), before)
    assert not layer.weight.requires_grad


@pytest.mark.parametrize("zero", ["0", "+1"])
def test_freezing_keeps_what_a_latent_zero_means(zero: str) -> None:
    layer = BinaryLinear(4, 2, sign_zero=zero)
    layer.weight.data[0] = 0
    assert layer.freeze_().weight[0].tolist() == [float(zero)] * 4


def test_state_survives_a_round_trip() -> None:
    def make() -> BinaryLayer:
        return BinaryConv2d(4, 8, 3, scale="channel×height×width", map_size=(3, 4), bias=True)

    layer, other = randomize_(make(), 3), make()
    other.load_state_dict(layer.state_dict())
    x = inputs(1, 4, 5, 6)
    assert torch.equal(layer(x), other(x))


def test_does_not_accept_channels_that_do_not_divide_into_groups() -> None:
    with pytest.raises(ValueError, match=r"6 input and 4 output channels.* 4 groups"):
        BinaryConv2d(6, 4, 3, groups=4)


def test_does_not_accept_a_kernel_of_another_rank() -> None:
    with pytest.raises(ValueError, match="kernel_size must be one number or 1 numbers"):
        BinaryConv1d(4, 4, (3, 3))


def test_linear_does_not_accept_a_spatial_scale() -> None:
    with pytest.raises(ValueError, match="linear layer 'dense'"):
        BinaryLinear(4, 4, scale="dense")

# SPDX-License-Identifier: Apache-2.0
"""Promises of xnortvm.models.scale."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xnortvm.models import ALIASES, CASES, AnalyticScale, LearnedScale, Scale, Window, make_scale

CHANNELS, HEIGHT, WIDTH = 6, 5, 3
WINDOW = Window.of(2, 3, padding=1)


def learned(name: str) -> LearnedScale:
    scale = make_scale(name, CHANNELS, WINDOW, (HEIGHT, WIDTH))
    assert isinstance(scale, LearnedScale)
    return scale


def filled(name: str) -> LearnedScale:
    """Factors of both signs whose products are exact in float32."""
    scale = learned(name)
    generator = torch.Generator().manual_seed(7)
    for factor in scale.factors():
        factor.data = torch.randint(-8, 9, factor.shape, generator=generator) / 4
    return scale


def accumulators() -> Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.randint(-54, 55, (2, CHANNELS, HEIGHT, WIDTH), generator=generator).float()


def apply(scale: Scale, y: Tensor) -> Tensor:
    return scale(y, torch.empty(0), torch.empty(0))


def numerical_gradient(loss: Callable[[], Tensor], at: Tensor, step: float = 1e-3) -> Tensor:
    """Central differences, float64."""
    result = torch.zeros_like(at)
    with torch.no_grad():
        for index in range(at.numel()):
            value = at.flatten()[index].item()
            at.view(-1)[index] = value + step
            above = loss()
            at.view(-1)[index] = value - step
            below = loss()
            at.view(-1)[index] = value
            result.view(-1)[index] = (above - below) / (2 * step)
    return result


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("none", 0),
        ("channel", CHANNELS),
        ("dense", CHANNELS * HEIGHT * WIDTH),
        ("channel×spatial", CHANNELS + HEIGHT * WIDTH),
        ("channel×height×width", CHANNELS + HEIGHT + WIDTH),
    ],
)
def test_each_case_learns_as_many_numbers_as_the_paper_says(name: str, numbers: int) -> None:
    assert sum(p.numel() for p in learned(name).parameters()) == numbers


@pytest.mark.parametrize("name", CASES)
def test_factors_start_at_one(name: str) -> None:
    y = accumulators()
    assert torch.equal(apply(learned(name), y), y)


def test_case1_scale_is_one_number_per_channel() -> None:
    scale, y = filled("channel"), accumulators()
    alpha = scale.alpha.detach()
    for o in range(CHANNELS):
        assert torch.equal(apply(scale, y)[:, o], y[:, o] * alpha[o, 0, 0])


def test_case2_scale_is_one_number_per_output() -> None:
    scale, y = filled("dense"), accumulators()
    for o, p, q in ((0, 0, 0), (3, 4, 1), (5, 2, 2)):
        assert torch.equal(apply(scale, y)[:, o, p, q], y[:, o, p, q] * scale.alpha[o, p, q])


def test_case3_scale_is_outer_product_of_channels_and_positions() -> None:
    scale, y = filled("channel×spatial"), accumulators()
    gamma = torch.einsum("o,hw->ohw", scale.alpha[:, 0, 0], scale.beta[0])
    assert torch.equal(apply(scale, y), y * gamma)
    assert torch.equal(scale.full(), gamma)


def test_case4_scale_is_outer_product_of_three_vectors() -> None:
    scale, y = filled("channel×height×width"), accumulators()
    gamma = torch.einsum(
        "o,h,w->ohw", scale.alpha[:, 0, 0], scale.beta[0, :, 0], scale.gamma[0, 0, :]
    )
    assert torch.equal(apply(scale, y), y * gamma)
    assert torch.equal(scale.full(), gamma)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("channel", "channel×height×width"),
        ("channel", "channel×spatial"),
        ("channel", "dense"),
        ("channel×height×width", "channel×spatial"),
        ("channel×height×width", "dense"),
        ("channel×spatial", "dense"),
    ],
)
def test_each_smaller_case_is_a_special_case_of_the_larger(small: str, large: str) -> None:
    one, other = filled(small), learned(large)
    if large == "dense":
        other.alpha.data = one.full().expand(CHANNELS, HEIGHT, WIDTH)
    else:
        other.alpha.data = one.alpha.data
        if small != "channel":
            other.beta.data = one.beta.data * one.gamma.data
    y = accumulators()
    assert torch.equal(apply(one, y), apply(other, y))


@pytest.mark.parametrize("name", CASES)
def test_learned_gradients_agree_with_numerical_ones(name: str) -> None:
    scale, y = filled(name).double(), accumulators().double()
    target = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def loss() -> Tensor:
        return (apply(scale, y) / 10 - target).square().mean()

    exact = torch.autograd.grad(loss(), list(scale.parameters()))
    for factor, grad in zip(scale.parameters(), exact, strict=True):
        assert grad.abs().max() > 1e-3
        torch.testing.assert_close(grad, numerical_gradient(loss, factor), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["analytic", "analytic-input"])
def test_analytic_gradients_agree_with_numerical_ones(name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    scale = make_scale(name, CHANNELS, WINDOW).double()
    y = accumulators().double()
    x = torch.randn(2, 4, HEIGHT, WIDTH, dtype=torch.float64, generator=generator)
    weight = torch.randn(CHANNELS, 4, 3, 3, dtype=torch.float64, generator=generator)
    x[x.abs() < 0.01] = 0.5  # |x| has no derivative at 0
    weight[weight.abs() < 0.01] = 0.5
    inputs = [weight, x] if name == "analytic-input" else [weight]

    def loss() -> Tensor:
        return scale(y / 10, x, weight).square().mean()

    for tensor in inputs:
        tensor.requires_grad_(True)
        (grad,) = torch.autograd.grad(loss(), tensor)
        assert grad.abs().max() > 1e-3
        torch.testing.assert_close(grad, numerical_gradient(loss, tensor), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["dense", "channel×spatial", "channel×height×width"])
def test_does_not_accept_another_map_size(name: str) -> None:
    with pytest.raises(ValueError, match="maps of 5×3 but got one of 3×5"):
        apply(learned(name), torch.ones(1, CHANNELS, WIDTH, HEIGHT))


def test_channel_scale_accepts_any_map_size() -> None:
    y = torch.ones(1, CHANNELS, 9, 2)
    assert torch.equal(apply(learned("channel"), y), y)


@pytest.mark.parametrize("name", ["dense", "channel×spatial", "channel×height×width"])
def test_spatial_scale_does_not_guess_a_map_size(name: str) -> None:
    with pytest.raises(ValueError, match="pass map_size"):
        make_scale(name, CHANNELS, WINDOW)


@pytest.mark.parametrize("size", [(5,), (5, 3, 1), (0, 3)])
def test_does_not_accept_a_misshapen_map_size(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="2 positive numbers"):
        make_scale("dense", CHANNELS, WINDOW, size)


def test_ascii_aliases_name_the_same_scales() -> None:
    for alias, name in ALIASES.items():
        assert alias.isascii()
        shapes = [p.shape for p in learned(alias).parameters()]
        assert shapes == [p.shape for p in learned(name).parameters()]
        assert learned(alias).name == name


@pytest.mark.parametrize(
    ("rank", "valid"),
    [
        (0, "none, channel, analytic, analytic-input"),
        (1, "none, channel, dense, channel×spatial, analytic, analytic-input"),
        (
            2,
            "none, channel, dense, channel×spatial, channel×height×width, analytic, analytic-input",
        ),
    ],
)
def test_unknown_scale_is_refused_with_those_valid_for_the_layer(rank: int, valid: str) -> None:
    with pytest.raises(ValueError) as error:
        make_scale("gamma", CHANNELS, Window.of(rank))
    assert str(error.value).endswith(f"'gamma'; valid: {valid}")


def test_analytic_scale_is_the_mean_magnitude_of_each_filter() -> None:
    weight = torch.randn(CHANNELS, 4, 3, 3, generator=torch.Generator().manual_seed(3))
    y = accumulators()
    scaled = make_scale("analytic", CHANNELS, WINDOW)(y, torch.empty(0), weight)
    for o in range(CHANNELS):
        alpha = sum(abs(w) for w in weight[o].flatten().tolist()) / 36
        torch.testing.assert_close(scaled[:, o], y[:, o] * alpha)


def test_input_map_is_a_box_filter_of_the_mean_magnitude() -> None:
    window = Window.of(2, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
    x = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(4))
    height, width = window.output_size((6, 5))
    scale = make_scale("analytic-input", 1, window)
    k = scale(torch.ones(2, 1, height, width), x, torch.ones(1, 4, 3, 2))
    for n in range(2):
        for p in range(height):
            for q in range(width):
                taps = [
                    x[n, :, row, column].abs().mean().item()
                    for row in range(2 * p - 1, 2 * p + 2)
                    for column in (q, q + 2)
                    if 0 <= row < 6
                ]
                assert k[n, 0, p, q].item() == pytest.approx(sum(taps) / 6, rel=1e-5)


def test_input_map_of_a_linear_layer_is_one_number_per_row() -> None:
    x = torch.tensor([[1.0, -3.0], [0.0, -0.5]])
    y = make_scale("analytic-input", 3, Window.of(0))(torch.ones(2, 3), x, torch.ones(3, 2))
    assert y.tolist() == [[2.0] * 3, [0.25] * 3]


def test_input_map_is_refused_with_groups() -> None:
    with pytest.raises(ValueError, match="not defined for 2 groups"):
        AnalyticScale(Window.of(2, 3, groups=2), input_map=True)

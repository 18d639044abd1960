# SPDX-License-Identifier: Apache-2.0
"""Promises of xnortvm.models.random_init."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xnortvm.models import (
    MODELS,
    BinaryConv2d,
    BinaryNetwork,
    LearnedScale,
    binary_layers,
    build,
    freeze_,
    random_input,
    randomize_,
)

LIGHT: dict[str, dict[str, Any]] = {
    "resnet18": {"input_size": 64},
    "resnet18-cifar": {},
    "resnet18-bireal": {"input_size": 64},
    "resnet18-plain": {"input_size": 64},
    "quicknet": {"input_size": 64},
    "alexnet": {"input_size": 95, "hidden": 256},
    "lenet": {},
}


def scale_factors(model: nn.Module) -> list[Tensor]:
    scales = [m for m in model.modules() if isinstance(m, LearnedScale)]
    norms = [m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    return [factor for scale in scales for factor in scale.factors()] + norms


def sign_margin(model: BinaryNetwork, x: Tensor) -> tuple[list[float], Tensor]:
    """Standard deviation of the output of each binary layer, and the logits."""
    spreads: list[float] = []
    for layer in binary_layers(model).values():
        layer.register_forward_hook(lambda m, args, y: spreads.append(y.std().item()))
    with torch.no_grad():
        return spreads, model(x)


@pytest.mark.parametrize("name", MODELS)
def test_activations_stay_near_one_and_logits_tell_inputs_apart(name: str) -> None:
    model = build(name, seed=11, **LIGHT[name])
    spreads, logits = sign_margin(model, random_input(model, batch=12, seed=99))
    assert len(spreads) == len(binary_layers(model))
    assert min(spreads) > 0.3
    assert max(spreads) < 3
    assert torch.isfinite(logits).all()
    assert logits.std(0).mean() > 0.3 * logits.std()
    assert len(set(logits.argmax(1).tolist())) >= 3


@pytest.mark.parametrize("name", MODELS)
def test_a_share_of_every_scale_tensor_is_negative_and_none_is_zero(name: str) -> None:
    for factor in scale_factors(build(name, **LIGHT[name])):
        assert not (factor == 0).any()
        share = (factor < 0).float().mean().item()
        assert share == pytest.approx(0.25, abs=0.51 / factor.numel()) or factor.numel() < 4
        assert factor.numel() < 2 or share > 0


def test_shares_are_exact_and_zeros_are_exactly_zero() -> None:
    layer = BinaryConv2d(8, 40, 3, padding=1)
    randomize_(layer, 3, negative=0.5, zero=0.1)
    alpha = layer.scale.alpha
    assert int((alpha == 0).sum()) == 4
    assert 16 <= int((alpha < 0).sum()) <= 20
    randomize_(layer, 3, negative=0.0)
    assert (alpha > 0).all()


def test_a_small_share_hits_at_least_one_but_never_a_factor_of_one_number() -> None:
    layer = BinaryConv2d(8, 16, 3, scale="channel×height×width", map_size=(1, 8))
    randomize_(layer, zero=0.01)
    alpha, beta, gamma = layer.scale.factors()
    assert [int((f == 0).sum()) for f in (alpha, beta, gamma)] == [1, 0, 1]
    assert beta.item() > 0


def test_slopes_are_positive_unless_asked_otherwise() -> None:
    model = nn.Sequential(nn.PReLU(20))
    slopes = model[0].weight
    randomize_(model)
    assert (slopes > 0).all()
    assert len(set(slopes.tolist())) == 20
    randomize_(model, negative_slope=0.2)
    assert int((slopes < 0).sum()) == 4


def test_no_parameter_folds_to_the_identity() -> None:
    model = build("resnet18", width=8, input_size=32)
    for name, tensor in model.named_parameters():
        assert tensor.numel() == 1 or tensor.std() > 0, name
        assert not (tensor == 1).any(), name
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            assert (module.running_mean != 0).all()
            assert (module.running_var > 0).all()


def test_latent_weights_have_both_signs_and_no_zeros() -> None:
    for layer in binary_layers(build("lenet")).values():
        assert (layer.weight != 0).all()
        assert (layer.weight < 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
        assert layer.weight.abs().max() < 1


def test_mode_of_the_model_is_kept() -> None:
    model = build("lenet", input_size=8, randomize=False)
    for training in (True, False):
        assert randomize_(model.train(training)).training is training
        assert model.conv.norm.training is training


def test_same_seed_gives_the_same_input_and_images_differ() -> None:
    model = build("lenet", input_size=(9, 12))
    x = random_input(model, batch=3, seed=1)
    assert x.shape == (3, 1, 9, 12)
    assert torch.equal(x, random_input(model, batch=3, seed=1))
    assert not torch.equal(x, random_input(model, batch=3, seed=2))
    assert (x[0] - x[1]).abs().mean() > 0.1


def test_does_not_leave_a_parameter_it_does_not_know() -> None:
    with pytest.raises(TypeError, match="'1': no rule for a LayerNorm"):
        randomize_(nn.Sequential(nn.ReLU(), nn.LayerNorm(4)))


def test_does_not_randomize_a_frozen_layer() -> None:
    with pytest.raises(ValueError, match="frozen"):
        randomize_(freeze_(nn.Sequential(BinaryConv2d(4, 4, 3))))


@pytest.mark.parametrize("share", [-0.1, 0.6])
def test_does_not_accept_a_share_outside_of_zero_to_a_half(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        randomize_(nn.PReLU(4), negative=share)

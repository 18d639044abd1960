# SPDX-License-Identifier: Apache-2.0
"""Weights with zeros, weights of two unequal levels, and groups of few channels are binary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import xnortvm
from tests.differential import assert_same, lower
from xnortvm.transform.groups import join_groups


def sign(x: Any) -> Any:
    return torch.where(x >= 0, 1.0, -1.0)


def adabin(w: Any) -> Any:
    """a·sign(w − b) + b, a pair for each output channel."""
    axes = tuple(range(1, w.dim()))
    b = w.mean(axes, keepdim=True)
    return (w - b).std(axes, keepdim=True) * sign(w - b) + b


def ternary(w: Any) -> Any:
    """TWN: sign where |w| is large, 0 elsewhere, a scale for each channel."""
    axes = tuple(range(1, w.dim()))
    large = w.abs() > 0.7 * w.abs().mean(axes, keepdim=True)
    return torch.where(large, torch.sign(w), 0.0) * w.abs().mean(axes, keepdim=True)


WEIGHTS: dict[str, Callable[[Any], Any]] = {
    "adabin": adabin,
    "ternary": ternary,
    "0 and 1": lambda w: (w > 0).float(),
    "0 and -s": lambda w: -0.3 * (w > 0).float(),
    "torch.sign of zeros": lambda w: torch.sign(F.relu(w) - F.relu(-w - 0.3)),
}

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "±1": sign,
    "0 and 1": lambda x: (x > 0).float(),
    "adabin": lambda x: 0.7 * (sign((x - 0.2) / 0.7) + 0.3),
    "ternary": lambda x: torch.sign(F.relu(x) - F.relu(-x)),
    "padded with 1": lambda x: F.pad(sign(x), (1, 0, 2, 1), value=1.0) if x.dim() == 4 else sign(x),
}


class Layer(nn.Module):
    def __init__(self, make: Any, activate: Any, shape: tuple[int, ...], **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(shape))
        self.make, self.activate, self.options = make, activate, options

    def forward(self, x: Any) -> Any:
        apply = F.conv2d if self.weight.dim() == 4 else F.linear
        return apply(self.activate(x), self.make(self.weight), **self.options)


class Three(nn.Module):
    """Three layers side by side."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Any, y: Any, z: Any) -> Any:
        return tuple(layer(each) for layer, each in zip(self.layers, (x, y, z), strict=True))


@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_layers_are_binary_and_equal_eager(weights, activations):
    make, activate = WEIGHTS[weights], ACTIVATIONS[activations]
    padding = {} if activations == "padded with 1" else {"padding": (1, 2)}
    model = Three(
        Layer(make, activate, (6, 5, 3, 3), stride=(2, 1), **padding),
        Layer(make, activate, (6, 2, 3, 3), groups=2, dilation=(1, 2), **padding),
        Layer(make, activate, (6, 40)),
    )
    inputs = torch.randn(2, 5, 6, 5), torch.randn(2, 4, 6, 7), torch.randn(3, 40)
    assert_same(model, *inputs, binary=3)


def test_offsets_do_not_stop_a_threshold_where_there_are_none():
    """Ternary weights leave one integer, and so the next sign is a comparison with one."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = Layer(ternary, sign, (8, 5, 3, 3), padding=1)
            self.second = Layer(sign, sign, (4, 8, 3, 3), padding=1)

        def forward(self, x: Any) -> Any:
            return self.second(self.first(x) + 0.1)

    lowered = assert_same(Two(), torch.randn(1, 5, 6, 6), binary=2, exact=True)
    assert "threshold_pack" in lowered.mod.script()


def test_zeros_where_two_integers_are_zero_happen_on_purpose():
    """s·acc + t·sum is 0 where both are, whatever rounding makes of it in PyTorch."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = Layer(adabin, sign, (8, 4, 1, 1))
            self.second = Layer(sign, torch.sign, (4, 8, 3, 3), padding=1)

        def forward(self, x: Any) -> Any:
            return self.second(self.first(x))

    report = lower(Two(), torch.randn(2, 4, 8, 8)).report
    assert [row.bits_in for row in report.layers] == ["1", "2"]


@pytest.mark.parametrize("target", ["llvm", "llvm -mcpu=haswell"])
def test_kernels_equal_eager(target):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                [
                    Layer(adabin, sign, (16, 12, 3, 3), padding=1),
                    Layer(ternary, sign, (16, 1, 3, 3), padding=1, groups=16),
                    Layer(adabin, sign, (32, 4, 3, 3), padding=1, groups=4, stride=2),
                    Layer(sign, sign, (48, 8, 3, 3), padding=1, groups=4),
                ]
            )
            self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (16, 16, 32, 48))
            self.rows = Layer(adabin, sign, (10, 48 * 9))
            self.last = Layer(ternary, sign, (7, 10))

        def forward(self, x: Any) -> Any:
            for layer, norm in zip(self.layers, self.norms, strict=True):
                x = norm(layer(x)) + 0.01
            return self.last(self.rows(x.flatten(1)) + 0.01)

    model = Net().eval()
    x = torch.randn(2, 12, 6, 6)
    compiled = xnortvm.compile(model, target=target, example_inputs=x)
    assert compiled.report.num_float_ops == 0
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(
        compiled(x.numpy()), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


@pytest.mark.parametrize(
    ("outputs", "inputs", "groups", "fewer"),
    [(64, 1, 64, 2), (64, 4, 16, 2), (32, 32, 1, 1), (64, 32, 2, 2), (12, 3, 4, 1), (8, 256, 2, 1)],
)
def test_groups_are_joined_until_they_fill_vectors(outputs, inputs, groups, fewer):
    signs = np.random.default_rng(0).choice(np.asarray([-1, 1], np.int8), (outputs, 1, 1, inputs))
    joined, count = join_groups(signs, groups)
    assert count == fewer
    assert joined.shape == (outputs, 1, 1, inputs * groups // fewer)
    assert np.count_nonzero(joined) == signs.size


def test_report_says_what_the_weights_are():
    notes = [
        lower(Layer(make, sign, (6, 5, 3, 3)), torch.randn(1, 5, 6, 5)).report.layers[0].note
        for make in (adabin, ternary, sign)
    ]
    assert "±s + t" in notes[0]
    assert "masked" in notes[1]
    assert notes[2] == ""

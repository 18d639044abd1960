# SPDX-License-Identifier: Apache-2.0
"""Transposed convolutions become ordinary ones, binary or float, for every stride and padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import xnortvm
from tests.differential import assert_same, lower, randomize
from tests.frontend.nets import onnx_file


class Up(nn.Module):
    """A transposed convolution of signs by signs, or of reals by reals."""

    def __init__(self, layer: nn.Module, *, binary: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.binary = layer, binary
        if binary:
            layer.weight.data = layer.weight.data.sign()

    def forward(self, x: Any) -> Any:
        return self.up(torch.where(x >= 0, 1.0, -1.0) if self.binary else x)


#: Options of a layer with 4 → 6 channels, on a 5×4 map.
OPTIONS: dict[str, dict[str, Any]] = {
    "stride 1": {"kernel_size": 3},
    "stride 2": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "stride 2, even kernel": {"kernel_size": 4, "stride": 2, "padding": 1},
    "kernel as the stride": {"kernel_size": 2, "stride": 2},
    "stride 3": {"kernel_size": 5, "stride": 3, "padding": 2, "output_padding": 1},
    "stride larger than the kernel": {"kernel_size": 2, "stride": 3, "output_padding": 2},
    "different axes": {
        "kernel_size": (3, 4),
        "stride": (2, 3),
        "padding": (0, 2),
        "output_padding": (1, 0),
    },
    "cropped": {"kernel_size": 3, "stride": 1, "padding": 2},
    "cropped more than the taps": {"kernel_size": 2, "stride": 2, "padding": 2},
    "dilation": {"kernel_size": 3, "stride": 2, "dilation": 2, "padding": 1, "output_padding": 1},
    "odd dilation": {"kernel_size": 3, "stride": 2, "dilation": 3, "output_padding": 1},
    "groups": {"kernel_size": 3, "stride": 2, "groups": 2},
    "depthwise": {"kernel_size": 4, "stride": 2, "groups": 2, "padding": 1},
    "no bias": {"kernel_size": 3, "stride": 2, "bias": False},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_binary_layers_equal_eager(name):
    layer = nn.ConvTranspose2d(4, 6, **OPTIONS[name])
    lowered = lower(Up(layer), torch.randn(2, 4, 5, 4))
    assert lowered.report.num_float_ops == 0
    assert lowered.report.num_binary_ops > 0
    bound = 1e-5 * np.abs(lowered.expected[0]).max()
    np.testing.assert_allclose(lowered.outputs[0], lowered.expected[0], rtol=0, atol=bound)


@pytest.mark.parametrize("name", OPTIONS)
def test_float_layers_equal_eager(name):
    layer = nn.ConvTranspose2d(4, 6, **OPTIONS[name])
    assert_same(Up(layer, binary=False), torch.randn(2, 4, 5, 4), binary=0)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_one_dimensional_layers_equal_eager(stride):
    layer = nn.ConvTranspose1d(4, 6, 4, stride=stride, padding=1)
    assert_same(Up(layer), torch.randn(2, 4, 7), binary=stride)


def test_phases_have_the_name_of_their_layer():
    report = lower(Up(nn.ConvTranspose2d(4, 6, 2, stride=2)), torch.randn(1, 4, 3, 3)).report
    assert [row.name for row in report.layers] == ["up[0,0]", "up[0,1]", "up[1,0]", "up[1,1]"]
    assert sum(row.macs for row in report.layers) == 4 * 6 * 4 * 9


class Decoder(nn.Module):
    """Up, batch norm, sign, up: the kernels of a binary decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ConvTranspose2d(5, 7, 3, stride=2, padding=1, output_padding=1)
        self.norm = nn.BatchNorm2d(7)
        self.second = nn.ConvTranspose2d(7, 3, 4, stride=2, padding=1)
        for layer in (self.first, self.second):
            layer.weight.data = layer.weight.data.sign()

    def forward(self, x: Any) -> Any:
        x = self.norm(self.first(torch.where(x >= 0, 1.0, -1.0)))
        return self.second(torch.where(x >= 0, 1.0, -1.0))


@pytest.mark.parametrize("way", ["torch", "onnx"])
def test_kernels_of_a_decoder_equal_eager(way, tmp_path):
    torch.manual_seed(0)
    model = randomize(Decoder()).eval()
    x = torch.randn(2, 5, 4, 3)
    source = model if way == "torch" else onnx_file(model, x, tmp_path / "up.onnx")
    compiled = xnortvm.compile(source, example_inputs=x if way == "torch" else x.numpy())
    assert compiled.report.num_binary_ops == 8
    with torch.no_grad():
        expected = model(x).numpy()
    found = compiled(x.numpy())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())

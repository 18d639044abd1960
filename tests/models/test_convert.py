# SPDX-License-Identifier: Apache-2.0
"""Promises of `binarize`, `real_twin` and `init_scales_`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xnortvm.errors import ModelError
from xnortvm.models import (
    SCALES,
    BinaryConv2d,
    BinaryLinear,
    binarize,
    binary_layers,
    build,
    init_scales_,
    real_twin,
)


class Block(nn.Module):
    """The basic block of torchvision's ResNet."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.downsample = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Net(nn.Module):
    """A small network in torchvision's style; the layers are defined in another order than run."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 5)
        self.hidden = nn.Linear(16, 16)
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = Block(8, 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.relu(self.hidden(x.mean((2, 3)))))


X = torch.randn(4, 3, 10, 8, generator=torch.Generator().manual_seed(0))


def test_all_but_first_and_last_in_running_order_become_binary() -> None:
    binary = binarize(Net(), example_inputs=X)
    assert list(binary_layers(binary)) == [
        "hidden.binary",
        "layer1.conv1.binary",
        "layer1.conv2.binary",
        "layer1.downsample.0.binary",
    ]
    assert type(binary.conv1) is nn.Conv2d
    assert type(binary.fc) is nn.Linear
    assert binary.layer1.conv1.binary.scale.full().shape == (16, 5, 4)


def test_layers_are_skipped_by_name_and_pattern() -> None:
    skip = ["first", "last", "hidden", "*.downsample.*"]
    binary = binarize(Net(), skip=skip, example_inputs=X)
    assert list(binary_layers(binary)) == ["layer1.conv1.binary", "layer1.conv2.binary"]


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_trains_after_binarization(scale: str) -> None:
    binary = binarize(Net(), scale=scale, example_inputs=X).train()
    binary(X).square().sum().backward()
    for name, parameter in binary.named_parameters():
        assert parameter.grad is not None, name


def test_the_original_is_left_as_it_was_and_keeps_its_mode() -> None:
    net = Net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    binary = binarize(net, example_inputs=X)
    assert not binary_layers(net)
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(binary.layer1.conv1.binary.weight, net.layer1.conv1.weight)


def test_alpha_starts_at_the_mean_magnitude_and_norms_at_the_statistics() -> None:
    net = Net().eval()
    binary = binarize(net, example_inputs=X)
    weight = net.layer1.conv1.weight
    alpha = binary.layer1.conv1.binary.scale.alpha
    assert torch.allclose(alpha.flatten(), weight.abs().mean((1, 2, 3)))
    met = net.relu(net.bn1(net.conv1(X)))
    norm = binary.layer1.conv1.norm
    assert torch.allclose(norm.running_mean, met.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(norm.running_var, met.var((0, 2, 3), correction=0), atol=1e-6)


def test_norms_are_optional_and_biases_are_kept() -> None:
    binary = binarize(Net(), norm=False, scale="channel", skip=["conv1", "fc"])
    assert isinstance(binary.hidden[0], BinaryLinear)
    assert binary.hidden[0].bias is not None
    assert isinstance(binary.layer1.conv2[0], BinaryConv2d)


def test_without_example_inputs_the_order_is_that_of_definition() -> None:
    names = [*binary_layers(binarize(Net(), scale="channel"))]
    assert "fc.binary" not in names
    assert "layer1.downsample.0.binary" not in names


def test_does_not_guess_map_sizes() -> None:
    with pytest.raises(ModelError, match="pass example_inputs"):
        binarize(Net())


def test_does_not_accept_a_skip_that_names_nothing() -> None:
    with pytest.raises(ModelError, match=r"skip names 'hiden'.*did you mean 'hidden'"):
        binarize(Net(), scale="channel", skip=["hiden"])
    with pytest.raises(ModelError, match="no layer is left to binarize"):
        binarize(nn.Sequential(nn.Linear(2, 2)), scale="channel")


def test_does_not_replace_what_it_cannot_express() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 1),
    )
    with pytest.raises(ModelError, match=r"layer '1' pads by .* with reflect"):
        binarize(net, scale="channel")
    net[1] = nn.Conv2d(4, 4, 3, padding="same")
    with pytest.raises(ModelError, match="layer '1' pads by 'same'"):
        binarize(net, scale="channel")


def test_a_layer_that_does_not_run_or_runs_on_two_sizes_is_named() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 3, 3) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.b(self.a(x)))

    with pytest.raises(ModelError, match="layer 'b' runs several times"):
        binarize(Twice(), example_inputs=X)

    class Idle(Twice):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    with pytest.raises(ModelError, match="layer 'c' did not run"):
        binarize(Idle(), skip=["a"], example_inputs=X)


def test_the_real_twin_has_the_same_layers_without_signs() -> None:
    model = build("resnet18-cifar", width=4, input_size=8)
    twin = real_twin(model)
    assert not binary_layers(twin)
    assert binary_layers(model)
    names = {name for name, _ in twin.named_parameters()}
    assert names == {name for name, _ in model.named_parameters() if ".scale." not in name}
    weight = model.blocks[0].body[0].conv.weight
    assert torch.equal(twin.blocks[0].body[0].conv.weight, weight)


def test_scales_start_at_one_or_at_the_analytic_scale() -> None:
    model = build("lenet", input_size=8, scale="dense")
    layer = model.conv.conv
    init_scales_(model, "analytic")
    expected = layer.weight.abs().mean((1, 2, 3))[:, None, None].expand(-1, 4, 4)
    assert torch.allclose(layer.scale.alpha, expected)
    init_scales_(model, "ones")
    assert bool((layer.scale.alpha == 1).all())
    with pytest.raises(ValueError, match="valid: ones, analytic"):
        init_scales_(model, "zeros")

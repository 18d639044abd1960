# SPDX-License-Identifier: Apache-2.0
"""Promises of the networks and of their registry."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xnortvm.models import (
    CASES,
    MODELS,
    SCALES,
    BinaryConv2d,
    BinaryLinear,
    BinaryNetwork,
    binary_layers,
    build,
    freeze_,
    random_input,
)

SMALL: dict[str, dict[str, Any]] = {
    "resnet18": {"width": 8, "input_size": (40, 33)},
    "resnet18-cifar": {"width": 8, "input_size": 16},
    "resnet18-bireal": {"width": 8, "input_size": 32},
    "resnet18-plain": {"width": 8, "input_size": 32},
    "quicknet": {"input_size": (40, 33), "sections": ((1, 8), (2, 16))},
    "alexnet": {
        "input_size": (67, 75),
        "channels": (8, 16, 8, 16, 8),
        "hidden": 16,
        "num_classes": 9,
    },
    "lenet": {"input_size": 8},
}


def small(name: str, **options: Any) -> BinaryNetwork:
    return build(name, **{**SMALL[name], **options})


def operators(program: torch.export.ExportedProgram) -> Counter[str]:
    return Counter(
        n.target.overloadpacket.__name__
        for n in program.graph.nodes
        if n.op == "call_function" and hasattr(n.target, "overloadpacket")
    )


def export(model: BinaryNetwork, batch: int = 1) -> torch.export.ExportedProgram:
    x = random_input(model, batch)
    return torch.export.export(model, (x,), strict=False).run_decompositions()


@cache
def exported(name: str) -> tuple[BinaryNetwork, torch.export.ExportedProgram]:
    """The small network of a name, for a batch of 2; an export takes seconds."""
    model = small(name)
    return model, export(model, batch=2)


def test_small_options_cover_every_model() -> None:
    assert list(SMALL) == list(MODELS)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_runs_with_every_scale(name: str, scale: str) -> None:
    model = small(name, scale=scale)
    with torch.no_grad():
        logits = model(random_input(model, batch=3))
    assert logits.shape == (3, model.num_classes)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_exports_to_the_operators_of_inference(name: str) -> None:
    model, program = exported(name)
    x = random_input(model, batch=2, seed=1)
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-5)
    known = (
        "_native_batch_norm_legit_no_training addmm mm permute convolution mul add where gt ge "
        "scalar_tensor sign view mean relu avg_pool2d max_pool2d_with_indices"
    )
    assert set(operators(program)) <= set(known.split())


@pytest.mark.parametrize("name", MODELS)
def test_every_binary_layer_has_a_sign_of_its_input_and_one_of_its_weights(name: str) -> None:
    model, program = exported(name)
    sign = "ge" if name in ("resnet18-plain", "quicknet") else "sign"
    assert operators(program)[sign] == 2 * len(binary_layers(model))


@pytest.mark.parametrize("name", ["alexnet", "lenet"])
def test_a_frozen_network_has_no_sign_of_weights_and_the_same_logits(name: str) -> None:
    model = small(name)
    x = random_input(model)
    before = model(x)
    freeze_(model)
    assert operators(export(model))["sign"] == len(binary_layers(model))
    assert torch.equal(model(x), before)


@pytest.mark.parametrize(
    ("name", "convs", "linears"),
    [
        ("resnet18", 16, 0),
        ("resnet18-cifar", 16, 0),
        ("resnet18-bireal", 16, 0),
        ("resnet18-plain", 19, 0),
        ("alexnet", 4, 2),
        ("lenet", 1, 1),
    ],
)
def test_first_and_last_layer_are_real_and_the_rest_is_binary(
    name: str, convs: int, linears: int
) -> None:
    model = small(name)
    kinds = Counter(type(layer) for layer in binary_layers(model).values())
    assert kinds == Counter({BinaryConv2d: convs, BinaryLinear: linears})
    real = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    shortcuts = 3 if convs == 16 else 0
    assert len(real) == 2 + shortcuts
    assert real[-1] is model.fc
    assert real[0].in_channels == model.input_shape[0]
    assert all(m.kernel_size == (1, 1) for m in real[1:-1])


@pytest.mark.parametrize("downsample", ["pool", "stride"])
@pytest.mark.parametrize("style", ["resnet18", "resnet18-bireal", "resnet18-plain"])
def test_shortcut_convolutions_are_binary_or_real_as_asked(style: str, downsample: str) -> None:
    binary = small(style, binary_downsample=True, downsample=downsample)
    real = small(style, binary_downsample=False, downsample=downsample)
    assert len(binary_layers(binary)) == 19
    assert len(binary_layers(real)) == 16
    for model in (binary, real):
        pools = sum(isinstance(m, nn.AvgPool2d) for m in model.modules())
        assert pools == (3 if downsample == "pool" else 0)
        assert model(random_input(model)).shape == (1, 1000)


def test_bireal_has_a_shortcut_around_every_convolution() -> None:
    assert operators(exported("resnet18-bireal")[1])["add"] == 16
    assert operators(exported("resnet18")[1])["add"] == 8


def test_plain_has_the_operators_of_the_benchmark_network() -> None:
    model = small("resnet18-plain")
    freeze_(model)
    assert operators(export(model)) == {
        "convolution": 20,
        "_native_batch_norm_legit_no_training": 20,
        "ge": 19,
        "where": 19,
        "scalar_tensor": 38,
        "mul": 19,
        "add": 8,
        "relu": 1,
        "max_pool2d_with_indices": 1,
        "mean": 1,
        "permute": 1,
        "addmm": 1,
    }


def test_plain_at_full_size_is_resnet18_plus_one_scale_per_binary_channel() -> None:
    with torch.device("meta"):
        model = MODELS["resnet18-plain"]()
    assert sum(p.numel() for p in model.parameters()) == 11_689_512 + 4_736


def test_alexnet_at_full_size_has_the_layers_of_xnor_net() -> None:
    with torch.device("meta"):
        model = MODELS["alexnet"]()
    assert [tuple(layer.weight.shape) for layer in binary_layers(model).values()] == [
        (256, 96, 5, 5),
        (384, 256, 3, 3),
        (384, 384, 3, 3),
        (256, 384, 3, 3),
        (4096, 256 * 6 * 6),
        (4096, 4096),
    ]


def test_quicknet_at_full_size_has_a_shortcut_around_each_of_16_binary_convolutions() -> None:
    with torch.device("meta"):
        model = MODELS["quicknet"]()
    shapes = [tuple(layer.weight.shape) for layer in binary_layers(model).values()]
    assert shapes == [(c, c, 3, 3) for c in (64, 128, 256, 512) for _ in range(4)]
    assert operators(exported("quicknet")[1])["add"] == 3


def test_the_blur_of_quicknet_is_fixed_and_keeps_a_constant() -> None:
    model = small("quicknet", seed=4)
    (blur,) = [m for m in model.modules() if type(m).__name__ == "Blur"]
    assert not list(blur.parameters())
    assert torch.equal(blur(torch.ones(1, 8, 6, 6))[:, :, 1:, 1:], torch.ones(1, 8, 2, 2))


@pytest.mark.parametrize("name", [n for n in MODELS if n != "resnet18-plain"])
def test_no_exact_zeros_reach_a_sign(name: str) -> None:
    model = small(name)
    zeros: dict[str, int] = {}

    def count(layer: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            zeros[layer] = int((args[0] == 0).sum())

        return hook

    for layer, module in binary_layers(model).items():
        module.register_forward_pre_hook(count(layer))
    model(random_input(model, batch=2))
    assert zeros == dict.fromkeys(binary_layers(model), 0)


@pytest.mark.parametrize("scale", CASES[1:])
def test_spatial_cases_do_not_accept_another_image_size(scale: str) -> None:
    model = small("resnet18-cifar", scale=scale)
    with pytest.raises(ValueError, match="maps of 16×16 but got one of 18×18"):
        model(torch.zeros(1, 3, 18, 18))


def test_case1_accepts_another_image_size() -> None:
    model = small("resnet18-cifar", scale="channel")
    assert model(torch.zeros(1, 3, 18, 18)).shape == (1, 10)


@pytest.mark.parametrize("size", [(1, 1), (9, 6), (33, 70)])
def test_odd_and_tiny_images_are_ordinary(size: tuple[int, int]) -> None:
    model = small("resnet18", input_size=size)
    assert model(random_input(model)).shape == (1, 1000)


def test_too_small_an_image_is_refused_with_the_size_that_is_left() -> None:
    with pytest.raises(ValueError, match="does not fit into a map of 2×2"):
        small("alexnet", input_size=62)
    assert small("alexnet", input_size=63).fc6.linear.weight.shape[1] == 8


def test_linear_layers_follow_the_scale_of_the_convolutions() -> None:
    def of(scale: str) -> list[str]:
        return [str(layer.scale) for layer in binary_layers(small("alexnet", scale=scale)).values()]

    assert all("channel, (16,)" in text for text in of("channel×height×width")[4:])
    assert all("mean |W|" in text and "K" not in text for text in of("analytic"))
    assert all("mean |W| · K" in text for text in of("analytic-input"))


def test_options_reach_every_binary_layer() -> None:
    for name in MODELS:
        model = small(name, estimator="polynomial", weight_estimator="polynomial", sign_zero="+1")
        for layer in binary_layers(model).values():
            assert (layer.estimator, layer.weight_estimator) == ("polynomial", "polynomial")
            assert layer.sign_zero == "+1"
    model = small("lenet", activation="relu")
    assert sum(isinstance(m, nn.ReLU) for m in model.modules()) == 2


def test_case4_lenet_learns_a_batch_and_every_parameter_has_a_gradient() -> None:
    model = build("lenet", input_size=8, randomize=False, seed=0).train()
    x = random_input(model, batch=32)
    labels = torch.randint(0, 10, (32,), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_unknown_names_are_refused_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=f"'vgg'; valid: {', '.join(MODELS)}$"):
        build("vgg")
    for name in MODELS:
        with pytest.raises(ValueError, match=f"'chanel'; valid: {', '.join(SCALES)}$"):
            build(name, scale="chanel")
    with pytest.raises(ValueError, match="activation 'swish'; valid: prelu, relu, none"):
        small("lenet", activation="swish")
    with pytest.raises(ValueError, match="stem 'mnist'; valid: imagenet, cifar, strided"):
        small("resnet18", stem="mnist")
    with pytest.raises(ValueError, match="input_size must be one or two positive numbers"):
        build("lenet", input_size=(0, 8))


def test_build_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    small("lenet")
    small("lenet", randomize=False)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("randomize", [True, False])
def test_same_seed_gives_the_same_network_and_another_seed_another(randomize: bool) -> None:
    first, again, other = (
        small("lenet", seed=seed, randomize=randomize).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["conv.conv.weight"], other["conv.conv.weight"])


def test_import_needs_torch_but_neither_tvm_nor_the_compiler(tmp_path: Path) -> None:
    code = (
        "import sys, torch, xnortvm\n"
        "before = set(sys.modules)\n"
        "import xnortvm.models\n"
        "new = [m for m in set(sys.modules) - before if not m.startswith('xnortvm.models')]\n"
        "bad = [m for m in new if m.split('.')[0] in ('tvm', 'tvm_ffi', 'onnx', 'xnortvm')]\n"
        "sys.exit(str(bad) if bad else 0)\n"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr

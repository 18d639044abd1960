# SPDX-License-Identifier: Apache-2.0
"""XNOR-Net++ layers and networks in PyTorch: what xnortvm compiles.

Layers hold latent real weights and straight-through estimators, so that they train; in an exported
graph only the operators of inference remain. Needs torch and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from .alexnet import AlexNet
from .blocks import BinaryNetwork
from .layers import BinaryConv1d, BinaryConv2d, BinaryLayer, BinaryLinear, binary_layers, freeze_
from .lenet import LeNet
from .random_init import random_input, randomize_
from .resnet import ResNet18
from .scale import ALIASES, CASES, SCALES, AnalyticScale, LearnedScale, Scale, make_scale
from .ste import ESTIMATORS, SIGN_ZERO, sign
from .window import Window

__all__ = [
    "ALIASES",
    "CASES",
    "ESTIMATORS",
    "MODELS",
    "SCALES",
    "SIGN_ZERO",
    "AlexNet",
    "AnalyticScale",
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryLayer",
    "BinaryLinear",
    "BinaryNetwork",
    "LeNet",
    "LearnedScale",
    "ResNet18",
    "Scale",
    "Window",
    "binary_layers",
    "build",
    "freeze_",
    "make_scale",
    "random_input",
    "randomize_",
    "sign",
]

MODELS: dict[str, Callable[..., BinaryNetwork]] = {
    "resnet18": partial(ResNet18, "xnorpp"),
    "resnet18-cifar": partial(ResNet18, "xnorpp", stem="cifar", input_size=32, num_classes=10),
    "resnet18-bireal": partial(ResNet18, "bireal"),
    "resnet18-plain": partial(ResNet18, "plain"),
    "alexnet": AlexNet,
    "lenet": LeNet,
}
"""The networks by name; each takes the options of its class as keywords."""


def build(
    name: str,
    *,
    scale: str | None = None,
    num_classes: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    randomize: bool = True,
    **options: Any,
) -> BinaryNetwork:
    """Build a network by name.

    Parameters
    ----------
    name : str
        A key of `MODELS`.
    scale : str, optional
        Γ of the binary convolutions, a key of `SCALES` or `ALIASES`; None leaves the model's
        default.
    num_classes : int, optional
        Number of logits.
    input_size : int or (int, int), optional
        Image size.
    seed : int
        Of the parameters, random or initial; torch's global generator is left as it was.
    randomize : bool
        Whether to call `randomize_`, for tests and benchmarks. Otherwise the parameters are those
        to start training from.
    **options
        Further keywords of the model's class, such as ``width=`` or ``activation=``.

    Returns
    -------
    BinaryNetwork
        In evaluation mode, float32 on the CPU.

    Raises
    ------
    ValueError
        For an unknown name or scale, listing the valid ones.

    Examples
    --------
    >>> model = build("lenet", scale="channel", input_size=8)
    >>> tuple(model(random_input(model, batch=2)).shape)
    (2, 10)
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; valid: {', '.join(MODELS)}")
    given = {"scale": scale, "num_classes": num_classes, "input_size": input_size}
    options |= {key: value for key, value in given.items() if value is not None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name](**options)
    if randomize:
        randomize_(model, seed)
    return model.eval()

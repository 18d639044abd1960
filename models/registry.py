# SPDX-License-Identifier: Apache-2.0
"""The networks by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from .alexnet import AlexNet
from .blocks import BinaryNetwork
from .lenet import LeNet
from .quicknet import QuickNet
from .random_init import randomize_
from .resnet import ResNet18
from .spec import Spec, note_spec

MODELS: dict[str, Callable[..., BinaryNetwork]] = {
    "resnet18": partial(ResNet18, "xnorpp"),
    "resnet18-cifar": partial(ResNet18, "xnorpp", stem="cifar", input_size=32, num_classes=10),
    "resnet18-bireal": partial(ResNet18, "bireal"),
    "resnet18-plain": partial(ResNet18, "plain"),
    "quicknet": QuickNet,
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
    >>> tuple(model(torch.zeros(2, 1, 8, 8)).shape)
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
    note_spec(model, Spec(name, options))
    return model.eval()

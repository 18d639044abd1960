# SPDX-License-Identifier: Apache-2.0
"""What a network costs at inference: operations and bytes, counted from its layers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks import BinaryNetwork
from ..layers import BinaryLayer, binary_layers
from ..scale import AnalyticScale


@dataclass(frozen=True)
class Cost:
    """Cost of one image.

    Parameters
    ----------
    parameters : int
        Learned numbers, latent weights included.
    scale_numbers : int
        Numbers of all Γ that are kept for inference.
    binary_macs, real_macs : int
        Multiply-accumulates of convolutions and linear layers.
    bytes : int
        Of the parameters at inference: one bit per binary weight, four bytes per real number.
    """

    parameters: int
    scale_numbers: int
    binary_macs: int
    real_macs: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return all fields as a dictionary."""
        return asdict(self)


def cost(model: BinaryNetwork) -> Cost:
    """Count what a network costs.

    Examples
    --------
    >>> from xnortvm.models import build
    >>> cost(build("lenet", input_size=8, scale="channel-height-width")).scale_numbers
    328
    """
    macs = {True: 0, False: 0}

    def count(layer: Any, inputs: Any, output: Tensor) -> None:
        macs[isinstance(layer, BinaryLayer)] += output[0].numel() * layer.weight[0].numel()

    kinds = (BinaryLayer, nn.Conv1d, nn.Conv2d, nn.Linear)
    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, *model.input_shape))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    layers = binary_layers(model).values()
    parameters = sum(p.numel() for p in model.parameters())
    bits = sum(layer.weight.numel() for layer in layers)
    computed = sum(
        layer.weight.shape[0] for layer in layers if isinstance(layer.scale, AnalyticScale)
    )
    learned = sum(p.numel() for layer in layers for p in layer.scale.parameters())
    norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    statistics = sum(2 * norm.num_features for norm in norms)
    real = parameters - bits + computed + statistics
    return Cost(parameters, learned + computed, macs[True], macs[False], bits // 8 + 4 * real)

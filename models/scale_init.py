# SPDX-License-Identifier: Apache-2.0
"""Where the learned scale factors start: at 1, or at XNOR-Net's analytic scale.

What the paper's text says on it is not known here. The library of its author, two
re-implementations and larq-zoo start at 1; XNOR-Net's α, the mean magnitude of the latent weights,
is the natural start for weights that were trained as real ones, and what keeps activations at the
order of magnitude of 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from .layers import BinaryLayer, binary_layers
from .scale import LearnedScale

Model = TypeVar("Model", bound=nn.Module)


def _ones(layer: BinaryLayer) -> Tensor:
    return torch.ones(layer.weight.shape[0])


def _analytic(layer: BinaryLayer) -> Tensor:
    return layer.weight.detach().abs().flatten(1).mean(1)


SCALE_INITS: dict[str, Callable[[BinaryLayer], Tensor]] = {"ones": _ones, "analytic": _analytic}
"""Initial α by name, (o,) for a layer; β and γ start at 1 in any case."""


@torch.no_grad()
def init_scales_(model: Model, start: str) -> Model:
    """Set the learned scale factors of every binary layer to where training starts.

    Parameters
    ----------
    model : nn.Module
        Its layers without learned factors stay as they are.
    start : {"ones", "analytic"}
        α of every channel; for the dense case, of every position in it.

    Returns
    -------
    nn.Module
        `model`.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if start not in SCALE_INITS:
        raise ValueError(f"unknown start of scales {start!r}; valid: {', '.join(SCALE_INITS)}")
    for layer in binary_layers(model).values():
        if not isinstance(layer.scale, LearnedScale):
            continue
        for position, factor in enumerate(layer.scale.factors()):
            factor.fill_(1)
            if position == 0:
                factor.mul_(SCALE_INITS[start](layer).reshape(-1, *(1,) * (factor.dim() - 1)))
    return model

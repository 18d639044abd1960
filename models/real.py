# SPDX-License-Identifier: Apache-2.0
"""The real-valued twin of a binary network: the same layers without signs and scale factors."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from .layers import BinaryLayer, binary_layers
from .spec import note_spec, spec_of

Model = TypeVar("Model", bound=nn.Module)

_KINDS: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}


def real_twin(model: Model) -> Model:
    """Copy a network with every binary layer replaced by a real one.

    It is the upper end of what binarization can reach, trained by the same recipe. The latent
    weights become the weights; batch norms and activations stay, Γ goes.

    Parameters
    ----------
    model : nn.Module
        Is left as it is.

    Returns
    -------
    nn.Module
        Without binary layers.

    Examples
    --------
    >>> from xnortvm.models import build
    >>> any("scale" in name for name, _ in real_twin(build("lenet")).named_parameters())
    False
    """
    twin = copy.deepcopy(model)
    for name, layer in binary_layers(twin).items():
        twin.set_submodule(name, _real(layer))
    spec = spec_of(model)
    if spec is not None:
        note_spec(twin, replace(spec, real=True))
    return twin


def _real(layer: BinaryLayer) -> nn.Module:
    window, weight, bias = layer.window, layer.weight, layer.bias
    real: nn.Module
    if window.rank == 0:
        real = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    else:
        real = _KINDS[window.rank](
            weight.shape[1] * window.groups,
            weight.shape[0],
            window.kernel,
            window.stride,
            window.padding,
            window.dilation,
            window.groups,
            bias is not None,
        )
    with torch.no_grad():
        real.weight.copy_(weight)
        if bias is not None:
            real.bias.copy_(bias)
    return real

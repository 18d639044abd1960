# SPDX-License-Identifier: Apache-2.0
"""PyTorch modules that torch.export would refuse in its own words, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from xnortvm.errors import ModelError

_WRAPPERS = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)


#: What torch.export says when it cannot slice a list of modules or parameters.
SLICE = "AttrProxy.__init__() missing"


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the module inside of a wrapper for several devices.

    Raises
    ------
    ModelError
        For TorchScript, for lazy modules, and for parameters without values.
    """
    while isinstance(model, _WRAPPERS):
        model = model.module
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "the model is TorchScript, which torch.export does not take; pass the torch.nn.Module "
            "that it was made from"
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise ModelError(
                f"{name!r} of {type(model).__name__} has no shape yet, because its module is lazy; "
                "call model(*example_inputs) once before"
            )
        if tensor.device.type == "meta":
            raise ModelError(
                f"{name!r} of {type(model).__name__} is on the meta device and has no values; "
                "load the checkpoint first, with model.to_empty and load_state_dict(assign=True)"
            )
    return model


def refuse_empty(name: str, shape: Sequence[Any]) -> None:
    """Refuse an input without elements."""
    if any(extent == 0 for extent in shape if isinstance(extent, int)):
        size = "×".join(map(str, shape))
        raise ModelError(
            f"input {name!r} has the shape {size}, so nothing is computed; pass an example with at "
            "least one element"
        )


def export_hint(error: Exception) -> str | None:
    """Say what to do about an error of torch.export, where that is known."""
    text = str(error)
    if "which is not a known type" in text and "in output" in text:
        kind = text.partition("<class '")[2].partition("'")[0].rpartition(".")[2]
        return (
            f"it returns a {kind}, whose tensors torch.export does not find; return a tensor, "
            f"tuple, list or dict, or call torch.export.register_dataclass({kind}) before"
        )
    if SLICE in text:
        return (
            "it slices a ModuleList or ParameterList of a module that is called twice, which "
            "PyTorch cannot record; slice a plain list instead, such as list(self.blocks)[1:]"
        )
    return None

# SPDX-License-Identifier: Apache-2.0
"""Branches on parameters and buffers of one element, as in ``if self.temperature < 1e-5:``.

torch.export replaces parameters by tensors without values, so it cannot take such a branch. What it
hangs on is no input, though: the compiled model has one value of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor


@contextmanager
def known_scalars(model: torch.nn.Module) -> Iterator[None]:
    """Let torch.export know the values of parameters and buffers that have one element.

    PyTorch's own propagation of constants does the rest, and forgets values that are written to.
    """
    values = {name: tensor.detach().clone() for name, tensor in _scalars(model)}

    def tell(module: torch.nn.Module, _: Any) -> None:
        for name, tensor in _scalars(module):
            if name in values and isinstance(tensor, FakeTensor):
                tensor.constant = values[name]

    hook = model.register_forward_pre_hook(tell)
    try:
        yield
    finally:
        hook.remove()


def _scalars(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.numel() == 1:
            yield name, tensor

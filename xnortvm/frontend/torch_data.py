# SPDX-License-Identifier: Apache-2.0
"""Writes to ``tensor.data`` in a forward, as in BinaryNet, BNext and what descends from them.

    input.data = Binarize(input.data)
    self.weight.data = Binarize(self.weight.org)
    self.weight.data.clamp_(-1, 1)

torch.export records functions of tensors, and these are none: the object stays and what it holds
changes. Here it changes for the rest of the call, so every call is the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

_GET, _SET = torch.Tensor.data.__get__, torch.Tensor.data.__set__  # type: ignore[attr-defined]


class DataWrites(TorchFunctionMode):
    """Lets functions read, in place of a tensor whose data were replaced, what replaced them."""

    def __init__(self) -> None:
        super().__init__()
        # By identity; the tensor is kept, so that no other one gets its number.
        self._written: dict[int, tuple[Any, Any]] = {}
        self._owner: dict[int, tuple[Any, Any]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Record a write; do everything else with what was written."""
        if func == _SET:
            tensor, value = args
            self._written[id(tensor)] = (tensor, self._current(value))
            return None
        if func == _GET:
            data = self._current(args[0]).detach().clone()
            self._owner[id(data)] = (data, args[0])
            return data
        result = func(*tree_map(self._current, args), **tree_map(self._current, dict(kwargs or {})))
        owner = self._owner.get(id(args[0])) if args and _in_place(func) else None
        if owner is not None:
            data, tensor = owner
            self._written[id(tensor)] = (tensor, data)
        return result

    def _current(self, value: Any) -> Any:
        return self._written.get(id(value), (value, value))[1]


def _in_place(func: Callable[..., Any]) -> bool:
    """Whether a function writes to its first argument, by PyTorch's names: ``clamp_``."""
    name = getattr(func, "__name__", "")
    return (name.endswith("_") and not name.endswith("__")) or name == "__setitem__"

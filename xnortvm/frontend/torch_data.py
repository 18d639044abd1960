# SPDX-License-Identifier: Apache-2.0
"""``tensor.data = value`` in a forward, as BinaryNet and what descends from it write it.

    input.data = Binarize(input.data)
    self.weight.data = Binarize(self.weight.org)

torch.export records functions of tensors, and this is none: the object stays and what it holds
changes.
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
            return self._current(args[0]).detach()
        return func(*tree_map(self._current, args), **tree_map(self._current, dict(kwargs or {})))

    def _current(self, value: Any) -> Any:
        return self._written.get(id(value), (value, value))[1]

# SPDX-License-Identifier: Apache-2.0
"""Export with a dynamic batch: what ``dynamic_batch=True`` means for the inputs of a module."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from xnortvm.errors import ModelError


def open_batch(
    forward: Callable[..., Any], inputs: tuple[Any, ...]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Mark dimension 0 of the inputs as one dynamic dimension.

    Parameters
    ----------
    forward : callable
        The module's method: shapes are given by the names of its arguments.
    inputs : tuple
        Positional arguments, nested or not.

    Returns
    -------
    inputs : tuple
        With two samples where there was one, which torch.export takes for a fixed extent.
    shapes : dict
        ``dynamic_shapes`` for ``torch.export.export``. Tensors whose dimension 0 is not the batch
        of the first tensor stay static.

    Raises
    ------
    ModelError
        When no input has a dimension 0.
    """
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if _has_batch(leaf)]
    if not tensors:
        raise ModelError("dynamic_batch=True, and no input is a tensor with a dimension")
    size = tensors[0].shape[0]
    batch = torch.export.Dim("batch")

    def example(leaf: Any) -> Any:
        return torch.cat([leaf, leaf]) if size == 1 and _is_batched(leaf, size) else leaf

    def shape(leaf: Any) -> Any:
        return {0: batch} if _is_batched(leaf, size) else None

    inputs = pytree.tree_map(example, inputs)
    named = inspect.signature(forward).bind(*inputs).arguments
    size *= 2 if size == 1 else 1
    return inputs, {name: pytree.tree_map(shape, value) for name, value in named.items()}


def fixed_batch(name: str, place: str, error: Exception) -> ModelError | None:
    """Say why a module has no dynamic dimension; None when that is not what went wrong."""
    text = str(error)
    if "onstraints violated" not in text and "dynamic_shapes" not in text:
        return None
    cause = re.search(r"^\s*- (.+)$", text, re.MULTILINE)
    detail = (cause.group(1) if cause else text.strip().splitlines()[0]).split(". If you")[0]
    return ModelError(
        f"{name} cannot be exported with a dynamic dimension{place}: {detail}; use x.shape[0] "
        "where forward has a number, or compile for a fixed batch"
    )


def _has_batch(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dim() > 0


def _is_batched(leaf: Any, size: int) -> bool:
    return _has_batch(leaf) and leaf.shape[0] == size

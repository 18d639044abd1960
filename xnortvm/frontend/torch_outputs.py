# SPDX-License-Identifier: Apache-2.0
"""Names and structure of what a PyTorch model returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx
from torch.utils import _pytree as pytree


def output_structure(spec: Any, outputs: Sequence[Any]) -> tuple[Any, tuple[str, ...]]:
    """Describe what a model returns.

    Parameters
    ----------
    spec : TreeSpec
        Of the model's return value.
    outputs : sequence
        Its leaves: nodes for tensors, literals for the rest.

    Returns
    -------
    structure : nested tuple, list and dict of str
        An output's name in the place of each tensor; literals stand for themselves.
    names : tuple of str
        Names of the tensors in order.
    """
    places = pytree.tree_unflatten(list(range(len(outputs))), spec)
    paths = [path for path, _ in pytree.tree_leaves_with_path(places)]
    leaves = [
        _name(path) if isinstance(value, fx.Node) else value
        for path, value in zip(paths, outputs, strict=True)
    ]
    names = tuple(
        leaf for leaf, value in zip(leaves, outputs, strict=True) if isinstance(value, fx.Node)
    )
    return _plain(pytree.tree_unflatten(leaves, spec)), names


def _name(path: tuple[Any, ...]) -> str:
    parts = [
        str(next(getattr(key, field) for field in ("key", "idx", "name") if hasattr(key, field)))
        for key in path
    ]
    name = ".".join(parts)
    return f"output{name}" if not name or name[0].isdigit() else name


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return value

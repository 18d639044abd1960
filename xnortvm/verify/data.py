# SPDX-License-Identifier: Apache-2.0
"""Inputs to verify with: the user's examples where they say something, else random ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xnortvm.errors import ModelError
from xnortvm.runtime.interface import TensorSpec

Array = np.ndarray[Any, Any]


def chosen(
    specs: Sequence[TensorSpec],
    given: Any,
    examples: list[Array] | None,
    single: Sequence[bool] = (),
) -> tuple[list[Array], str]:
    """Return the inputs to verify with and what they are, in words.

    Parameters
    ----------
    specs : sequence of TensorSpec
        Inputs of the compiled model, for one sample where its batch is dynamic.
    single : sequence of bool
        Which inputs are to be cut down to one sample.
    given : sequence of arrays or None
        What the user passed as ``verify=``.
    examples : list of ndarray, optional
        What the model came with.

    Raises
    ------
    ModelError
        When the given inputs do not fit.
    """
    if given is not None:
        return _checked(specs, given, single), "the given inputs"
    examples = None if examples is None else _cut(examples, single)
    if examples is not None and _fit(specs, examples) and not _say_nothing(examples):
        return [np.asarray(x, order="C") for x in examples], "the example inputs"
    if examples is not None and _fit(specs, examples):
        return [
            random(spec) if x.dtype.kind == "f" else np.asarray(x, order="C")
            for spec, x in zip(specs, examples, strict=True)
        ], "random inputs"
    return [random(spec) for spec in specs], "random inputs"


def random(spec: TensorSpec, seed: int = 0) -> Array:
    """Draw an input: normal numbers, and 0 or 1 for integers, which may be indices."""
    rng = np.random.default_rng(seed)
    if np.dtype(spec.dtype).kind == "f":
        return np.asarray(rng.standard_normal(spec.of_batch(1))).astype(spec.dtype)
    return np.asarray(rng.integers(0, 2, spec.of_batch(1))).astype(spec.dtype)


def _say_nothing(examples: list[Array]) -> bool:
    """Whether every float input is one value throughout, as ``torch.zeros`` gives it."""
    floats = [x for x in examples if x.dtype.kind == "f" and x.size > 1]
    return bool(floats) and all((x == x.flat[0]).all() for x in floats)


def _fit(specs: Sequence[TensorSpec], examples: list[Array]) -> bool:
    return len(specs) == len(examples) and all(
        spec.shape == x.shape and spec.dtype == str(x.dtype)
        for spec, x in zip(specs, examples, strict=True)
    )


def _cut(arrays: list[Array], single: Sequence[bool]) -> list[Array]:
    if not any(single) or len(single) != len(arrays):
        return arrays
    return [x[:1] if one and x.ndim else x for x, one in zip(arrays, single, strict=True)]


def _checked(specs: Sequence[TensorSpec], given: Any, single: Sequence[bool]) -> list[Array]:
    values = list(given) if isinstance(given, (tuple, list)) else [given]
    arrays = [
        value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
        for value in values
    ]
    arrays = _cut(arrays, single)
    if len(arrays) != len(specs):
        names = ", ".join(spec.name for spec in specs)
        raise ModelError(
            f"verify needs one array for each of the {len(specs)} inputs ({names}) and has "
            f"{len(arrays)}; pass verify=(array, ...), or verify=True for the example inputs"
        )
    for spec, array in zip(specs, arrays, strict=True):
        if spec.shape != array.shape or spec.dtype != str(array.dtype):
            raise ModelError(
                f"verify has {array.dtype}{list(array.shape)} for input {spec.name!r}, which takes "
                f"{spec}; pass an array of that shape and dtype"
            )
    return [np.asarray(array, order="C") for array in arrays]

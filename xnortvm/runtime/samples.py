# SPDX-License-Identifier: Apache-2.0
"""A dynamic batch: the model for one sample is run for each of them.

What a sample leaves behind stays in the caches while its next layers read it, which a batch of them
would not: eight images through ResNet-18 take eight times as long as one, and 30 % longer where
every kernel runs over all of them first. Memory is that of one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xnortvm.runtime.arguments import flatten, hand_out
from xnortvm.runtime.interface import TensorSpec

Array = np.ndarray[Any, Any]


def first_sample(specs: Sequence[TensorSpec], values: Sequence[Any]) -> list[Any]:
    """Return arguments for one sample; those without a batch as they are."""
    return _sample(specs, values, 0)


def run_samples(
    run: Callable[[Sequence[Any]], Any],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    values: Sequence[Any],
) -> list[Array]:
    """Run a model for one sample on every sample of a batch.

    Parameters
    ----------
    run : callable
        From the arguments for one sample to a (nested) tuple of tensors, which may be overwritten
        by the next call.
    inputs, outputs : sequence of TensorSpec
        Those with a batch hold samples along dimension 0.
    values : sequence of ndarray or torch.Tensor
        Checked arguments; all batches have the same size.

    Returns
    -------
    list of ndarray
        The outputs, in memory of their own. One that has no batch is that of the last sample, and
        the same for all of them.
    """
    (count,) = {len(v) for spec, v in zip(inputs, values, strict=True) if spec.has_batch}
    made: list[Array] = []
    for index in range(count):
        tensors = flatten(run(_sample(inputs, values, index)))
        result = [hand_out([tensor], "numpy", copy=False) for tensor in tensors]
        if not made:
            made = [
                np.empty(
                    (count * len(one), *one.shape[1:]) if spec.has_batch else one.shape, one.dtype
                )
                for spec, one in zip(outputs, result, strict=True)
            ]
        for spec, whole, one in zip(outputs, made, result, strict=True):
            place = slice(index * len(one), (index + 1) * len(one)) if spec.has_batch else ...
            whole[place] = one
    return made


def _sample(specs: Sequence[TensorSpec], values: Sequence[Any], index: int) -> list[Any]:
    return [
        value[index : index + 1] if spec.has_batch else value
        for spec, value in zip(specs, values, strict=True)
    ]

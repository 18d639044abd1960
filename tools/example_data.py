# SPDX-License-Identifier: Apache-2.0
"""Example inputs of a model and what it gives for them, for self-tests on other machines.

The outputs are those of the same model compiled for this machine, which `xnortvm.compile` has
verified layer by layer against the source model. Another machine rounds differently, and where the
argument of a sign is within rounding of 0 it may take it differently; behind that, everything is
another number. So inputs are looked for that have no such sign: those whose outputs change least
when every value is moved by some units in the last place. How much they change sets the bound.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xnortvm.errors import XnortvmError
from xnortvm.runtime.folder import Example
from xnortvm.runtime.selftest import compare
from xnortvm.tools.model_arg import Source

if TYPE_CHECKING:
    from xnortvm.runtime.interface import TensorSpec
    from xnortvm.runtime.module import CompiledModel
    from xnortvm.target import Target

Array = np.ndarray[Any, Any]

_log = logging.getLogger("xnortvm.tools.compile")

#: Floats of two machines differ by less where no sign flips, as docs/semantics.md says.
ROUNDING = 1e-5
_CANDIDATES, _MOVES = 8, 3
# What inputs are moved by: 8 units in the last place of a float32.
_MOVE = 2.0**-20
_MARGIN = 8.0


def find_example(
    compiled: CompiledModel, source: Source, target: Target, options: Mapping[str, Any]
) -> Example | None:
    """Find example inputs of a model and compute the outputs on this machine.

    Parameters
    ----------
    compiled : CompiledModel
        For `target`; it is run itself where this machine can.
    source : Source
        What it was compiled from.
    target : Target
        What it was compiled for.
    options : mapping
        Those of `xnortvm.compile` that it was compiled with, without the target.

    Returns
    -------
    Example or None
        None where this machine cannot run the model, which is logged with the reason.
    """
    here = compiled if target.is_host else _for_this_machine(source, options)
    if here is None:
        return None
    example = choose(here, lambda seed: draw(here.inputs, source, seed))
    if example.bound > ROUNDING:
        _log.info(
            "the example's outputs change by %.1g of their largest value when the inputs are moved "
            "by rounding; the self-test allows %.1g",
            example.bound / _MARGIN,
            example.bound,
        )
    return example


def _for_this_machine(source: Source, options: Mapping[str, Any]) -> CompiledModel | None:
    import xnortvm

    _log.info("compiling %s for this machine, which computes the expected outputs", source.name)
    try:
        return xnortvm.compile(source.model, target="llvm", **options)
    except XnortvmError as error:
        _log.warning("no example outputs and no self-test: %s", error)
        return None


def draw(specs: Sequence[TensorSpec], source: Source, seed: int) -> list[Array]:
    """Return inputs of the right shapes: image-like ones for networks by name, else random."""
    if not isinstance(source.model, Path) and source.example_inputs is not None:
        from xnortvm.models import random_input

        batch = len(source.example_inputs[0])
        return [random_input(source.model, batch=batch, seed=seed).numpy()]
    random = np.random.default_rng(seed)
    return [random.standard_normal(spec.of_batch(1)).astype(spec.dtype) for spec in specs]


def choose(
    run: Callable[..., Any], candidate: Callable[[int], list[Array]], tries: int = _CANDIDATES
) -> Example:
    """Return the example whose outputs depend least on rounding.

    Parameters
    ----------
    run : callable
        From inputs to an output or a tuple of them.
    candidate : callable
        From a seed to inputs.
    tries : int
        Candidates at most; one whose outputs hardly change at all is taken at once.
    """
    best: Example | None = None
    for seed in range(tries):
        inputs = candidate(seed)
        outputs = _tuple(run(*inputs))
        bound = max(ROUNDING, _MARGIN * _spread(run, inputs, outputs))
        if best is None or bound < best.bound:
            best = Example(tuple(inputs), outputs, bound)
        if bound <= ROUNDING:
            break
    assert best is not None
    return best


def _spread(run: Callable[..., Any], inputs: Sequence[Array], outputs: Sequence[Array]) -> float:
    """Return by how much outputs change, as a part of their largest value."""
    random = np.random.default_rng(1)
    worst = 0.0
    for _ in range(_MOVES):
        moved = [_moved(value, random) for value in inputs]
        differences = compare([""] * len(outputs), run(*moved), outputs, 0.0)
        floats = [d.largest for d, out in zip(differences, outputs, strict=True) if _real(out)]
        worst = max([worst, *(part for part in floats if np.isfinite(part))])
    return worst


def _moved(value: Array, random: np.random.Generator) -> Array:
    if not _real(value):
        return value
    factors = 1 + random.uniform(-_MOVE, _MOVE, value.shape)
    return np.asarray((value * factors).astype(value.dtype))


def _real(value: Array) -> bool:
    return value.dtype.kind == "f"


def _tuple(result: Any) -> tuple[Array, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)

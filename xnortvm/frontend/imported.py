# SPDX-License-Identifier: Apache-2.0
"""What an importer hands to the rest of the compiler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from xnortvm.frontend.twin import Twin

Kind = Literal["torch", "exported", "onnx", "relax"]


@dataclass(frozen=True)
class Batch:
    """A number of samples that is not known before the call.

    Parameters
    ----------
    name : str
        The dimension's name in the user's model.
    low, high : int, int or None
        The range that the model allows; None is no limit.
    inputs : frozenset of str
        The parameters of ``main`` whose dimension 0 it is; the others are the same for all samples.
    outputs : tuple of bool
        Whether dimension 0 of an output holds one sample after the other, in order.
    """

    name: str
    low: int
    high: int | None
    inputs: frozenset[str]
    outputs: tuple[bool, ...]

    def __str__(self) -> str:
        """Return "batch from 1 to 64" and the like."""
        return f"{self.name} from {self.low}" + (f" to {self.high}" if self.high else " up")


class Dynamic(NamedTuple):
    """Which dimensions of a module's inputs are to be dynamic.

    Parameters
    ----------
    batch : bool
        Dimension 0 of every input.
    shapes : nested dict, list and tuple, optional
        The argument ``dynamic_shapes`` of ``torch.export.export``.
    """

    batch: bool = False
    shapes: Any = None


STATIC = Dynamic()
"""Every dimension as in the examples."""


@dataclass(frozen=True)
class Imported:
    """A model in Relax.

    Parameters
    ----------
    mod : IRModule
        One Relax function ``main`` whose only parameters are the model's inputs; parameters of the
        model are constants. It returns a tensor for one output and a tuple for several.
    input_names : tuple of str
        The names in the user's model, in the order of the parameters of ``main``. The parameters
        themselves have these names spelt as identifiers.
    output_names : tuple of str
        In the order of the fields of what ``main`` returns.
    structure : nested tuple, list and dict of str
        What the user's model returns, with an output's name in the place of each tensor. ``None``
        and numbers stand for themselves. A model with one plain output has its name here.
    kind : str
        Where the model came from: "torch", "exported", "onnx" or "relax".
    sources : mapping of str to str
        Layer name to ``file.py:line`` of the user's code, where the model remembers it.
    batch : Batch or None
        Of a model with a dynamic batch. `mod` then is the model for one sample, and the samples are
        known not to meet.
    twin : Twin, optional
        Runs the source model; None where it is nothing but `mod`.
    """

    mod: Any
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    structure: Any
    kind: Kind
    sources: Mapping[str, str] = field(default_factory=dict)
    batch: Batch | None = None
    twin: Twin | None = None

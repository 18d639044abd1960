# SPDX-License-Identifier: Apache-2.0
"""The source model as something that runs: what `xnortvm.verify` compares the compiled one with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

Array = np.ndarray[Any, Any]


class TwinRun(NamedTuple):
    """What a twin computes.

    Attributes
    ----------
    outputs : list of ndarray
        The tensors that the model returns, in order.
    layers : dict of str to (ndarray, ndarray or None)
        Input and output of each layer, as far as the twin can tell; outputs without the bias.
    """

    outputs: list[Array]
    layers: dict[str, tuple[Array, Array | None]]


class Twin(Protocol):
    """Runs the source model in its own framework."""

    @property
    def framework(self) -> str:
        """Its name in messages."""

    def examples(self) -> list[Array] | None:
        """Return inputs that the source model came with."""

    def cut(self, inputs: Sequence[Array], forced: Mapping[str, Array]) -> TwinRun:
        """Run the model, the named layers on given inputs instead of their own."""

    def whole(self, inputs: Sequence[Array]) -> list[Array] | None:
        """Run the user's own model as it is; None where that is not possible."""

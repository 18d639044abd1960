# SPDX-License-Identifier: Apache-2.0
"""Operators that cannot be compiled: all of a model at once, each with its layer and source line.

A translator goes on behind such an operator with a call of `PLACEHOLDER`, which has the type of the
result and no code, so that one import finds them all. `compile` then refuses the model; `explain`
(inside `collected`) says what would become of the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from xnortvm.errors import UnsupportedOperatorError

PLACEHOLDER = "xnortvm.unsupported"
"""Name of the external function that stands for an operator without code."""


@dataclass(frozen=True)
class Unsupported:
    """One operator.

    Attributes
    ----------
    operator : str
        As the model calls it.
    layer : str
        The module that made it; empty for the model's own forward.
    source : str
        Line of the user's code, ``file.py:12: code``; empty when unknown.
    reason : str
        Why it cannot be compiled.
    """

    operator: str
    layer: str
    source: str
    reason: str

    def __str__(self) -> str:
        """Return operator, place and reason in words."""
        place = f"in layer {self.layer!r}" if self.layer else "in the model's own forward"
        line = f" ({self.source})" if self.source else ""
        return f"{self.operator} {place}{line}: {self.reason}"


_COLLECTED: ContextVar[list[Unsupported] | None] = ContextVar("unsupported", default=None)


@contextmanager
def collected() -> Iterator[list[Unsupported]]:
    """Collect what is unsupported instead of raising."""
    found: list[Unsupported] = []
    token = _COLLECTED.set(found)
    try:
        yield found
    finally:
        _COLLECTED.reset(token)


def refuse(found: Sequence[Unsupported]) -> None:
    """Refuse a model for all its unsupported operators, or collect them.

    Raises
    ------
    UnsupportedOperatorError
        Naming all of them.
    """
    if not found:
        return
    known = _COLLECTED.get()
    if known is not None:
        known.extend(found)
        return
    listed = "; ".join(dict.fromkeys(map(str, found)))
    several = f"{len(found)} operators" if len(found) > 1 else "an operator"
    raise UnsupportedOperatorError(
        f"the model has {several} that cannot be compiled: {listed}; rewrite the layer with other "
        "operators, or cut the model there and compute it outside"
    )

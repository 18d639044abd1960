# SPDX-License-Identifier: Apache-2.0
"""Sees what the signs of a network read while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from tests.idioms.signs import SIGNS

_seen: list[Tensor] | None = None


def signed(name: str, x: Tensor) -> Tensor:
    """Apply a spelling of sign; what it reads is noted inside `watched`."""
    if _seen is None:
        return SIGNS[name].fn(x)
    # copysign reads the sign of -0.0, which the compiler does not: never 0, so drawn anew.
    _seen.append(x + 1e-30 if name == "copysign" else x - SIGNS[name].threshold)
    return SIGNS[name].fn(x).to(x.dtype)


@contextmanager
def watched() -> Iterator[list[Tensor]]:
    """Collect what the signs read, each less its threshold, in order of execution."""
    global _seen
    _seen = seen = []
    try:
        yield seen
    finally:
        _seen = None

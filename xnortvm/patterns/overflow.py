# SPDX-License-Identifier: Apache-2.0
"""Accumulators are int32: how many products a layer may add up."""

from __future__ import annotations

from xnortvm.patterns.activations import BinaryActivations
from xnortvm.patterns.reject import Reject

#: Largest magnitude of an accumulator, and of the sum of two where zeros are computed twice.
LIMIT = 2**31 - 1


def overflow(terms: int, activations: BinaryActivations) -> Reject | None:
    """Refuse a layer whose accumulator could leave int32; None where it cannot.

    Parameters
    ----------
    terms : int
        Products that an output adds up.
    activations : BinaryActivations
        a·v + b: b/a is added to the accumulator where it is an integer, and v is computed twice
        where it can be 0.
    """
    ratio = abs(activations.offset / activations.scale)
    largest = 2 * terms * (1 + int(ratio)) if ratio == int(ratio) else 2 * terms
    if largest <= LIMIT:
        return None
    return Reject(
        f"it adds up {terms} products of magnitude up to {1 + ratio:g}, which can leave 32 bits",
        "split its input channels over several layers and add their outputs",
    )

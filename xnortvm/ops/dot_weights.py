# SPDX-License-Identifier: Apache-2.0
"""The constants of a packed dot product: weights in the order in which its form reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnortvm.ops.channels import blocked_weight
from xnortvm.ops.dot_form import NIBBLE, Form
from xnortvm.ops.intrinsics_pairwise import WORDS
from xnortvm.ops.layout import WORD


def kernel_weights(packed: NDArray[np.uint32], channels: int, form: Form) -> list[NDArray[Any]]:
    """Return the constants of a kernel made of packed weights.

    Parameters
    ----------
    packed : (O, ..., ceil(C / 32)) uint32
        Bit 1 is −1; as many words again for a masked form.
    channels : int
        C, input channels of one group.

    Returns
    -------
    list of ndarray
        The weights blocked for the lanes of the form; for tables (``uint8``, one nibble in a
        byte), the table as well: row a, of ``lanes`` bytes, holds popcount(a xor w) for
        w = 0 … 15, again and again, since ``vpshufb`` looks up within 16 bytes; for masked forms
        the masks as well, blocked like the weights.
    """
    if form.name == "plain":
        return [packed]
    halves = np.split(packed, 2, axis=-1) if form.masked else [packed]
    if form.name == "paired":
        return [_blocked_vectors(np.tile(packed, 2), form.lanes)]
    if form.name == "pairwise":
        arrays = [_blocked_vectors(_runs(half, channels, form), form.lanes) for half in halves]
        return (
            arrays if form.masked or not form.tail(channels) else [*arrays, _tail(channels, form)]
        )
    if form.name != "table":
        return [blocked_weight(half, form.lanes) for half in halves]
    shifts = np.arange(0, WORD, NIBBLE, dtype=np.uint32)
    nibbles = (packed[..., None] >> shifts) & np.uint32(15)
    nibbles = nibbles.reshape(*packed.shape[:-1], -1)[..., : form.steps(channels)]
    counts = [[(a ^ w).bit_count() for w in range(16)] for a in range(16)]
    table = np.tile(np.array(counts, np.uint8), form.lanes // 16)
    return [blocked_weight(nibbles.astype(np.uint8), form.lanes), table.reshape(-1)]


def _runs(packed: NDArray[np.uint32], channels: int, form: Form) -> NDArray[np.uint32]:
    """Return weights whose neighbouring taps are one run, padded to whole vectors."""
    *lead, count = packed.shape
    if len(lead) > 1:
        packed = packed.reshape(*lead[:-1], lead[-1] // form.taps, form.taps * count)
    return np.pad(packed, [(0, 0)] * (packed.ndim - 1) + [(0, form.tail(channels))])


def _tail(channels: int, form: Form) -> NDArray[np.uint32]:
    """Return the mask (steps, 4) of the activations that belong to the taps of a run."""
    mask = np.full(form.steps(channels) * WORDS, 0xFFFFFFFF, np.uint32)
    mask[-form.tail(channels) :] = 0
    return mask.reshape(-1, WORDS)


def _blocked_vectors(packed: NDArray[np.uint32], lanes: int) -> NDArray[np.uint32]:
    """Return packed weights (O, ..., words) as (blocks, ..., steps, lanes, 4)."""
    vectors = packed.reshape(*packed.shape[:-1], -1, WORDS)
    return np.ascontiguousarray(blocked_weight(vectors, lanes).swapaxes(-1, -2))

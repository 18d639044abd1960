# SPDX-License-Identifier: Apache-2.0
"""Read the integers of a fused kernel off what it gives.

A fused kernel keeps its accumulator in registers. Where it gives floats, the value shows which
integer it was made of: the neighbours of the right one give other values. Where it gives nothing
but packed comparisons ``acc < T``, the same machine code is called again with other thresholds:
when the bits are right for T = n and for T = n + 1, for all integers n that occur, every
accumulator is exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xnortvm._tvm import runtime
from xnortvm.ops import reference, unpack
from xnortvm.runtime.trace import KernelCall

Array = np.ndarray[Any, Any]

#: Values that are compared at most while thresholds are swept: about a second.
_BUDGET = 1 << 28


def nearest(actual: Array, expected: Array, above: Array, below: Array) -> Array:
    """Tell where a float value is nearer to that of a neighbouring integer.

    Parameters
    ----------
    actual : ndarray
        What the kernel gave.
    expected, above, below : ndarray
        What the right integer gives, and what integers 2 above and below give.
    """
    with np.errstate(invalid="ignore"):
        steps = np.minimum(np.abs(above - expected), np.abs(below - expected))
        wrong: Array = (steps > 0) & (np.abs(actual - expected) > steps / 2)
    return wrong


def swept(
    call: KernelCall, constants: int, pack: Any, accumulator: Array, consts: list[Array]
) -> Array | None:
    """Call a kernel with other thresholds; tell which accumulators were wrong for one of them.

    Parameters
    ----------
    call : KernelCall
        The recorded call; its last argument is the packed output.
    constants : int
        Place of the first argument that is a constant.
    pack : relax.Call
        Its packing operator.
    accumulator : ndarray (..., C) int32
        The right integers.
    consts : list of ndarray
        Constants that the comparison reads, the last but one and the last being the threshold
        and what follows it in the operator.

    Returns
    -------
    ndarray of bool or None
        None when the kernel's arguments do not show its thresholds.
    """
    places = _places(call.args[constants:-1], consts)
    if places is None:
        return None
    args = [runtime.tensor(np.asarray(value, order="C"), call.device) for value in call.args]
    channels, groups = accumulator.shape[-1], int(pack.attrs["groups"])
    wrong = np.zeros_like(call.args[-1])
    for n in _thresholds(accumulator):
        for place, template in zip(places, _templates(consts, n), strict=True):
            args[constants + place] = runtime.tensor(template, call.device)
        call.function(*args)
        limit = np.asarray(n, np.int32)
        expected = reference.threshold_pack(accumulator, limit, np.asarray(0, np.int32), groups)
        wrong |= args[-1].numpy() ^ expected
    found: Array = unpack(wrong, channels, groups) < 0
    return found


def _thresholds(accumulator: Array) -> Array:
    values = np.unique(accumulator)
    both = np.unique(np.concatenate([values, values + 1]))
    step = max(1, -(-both.size * accumulator.size // _BUDGET))
    chosen: Array = both[::step]
    return chosen


def _places(given: tuple[Array, ...], consts: list[Array]) -> list[int] | None:
    """Find the constants of the comparison among the arguments, in order, from the end."""
    places: list[int] = []
    place = len(given)
    for const in reversed(consts):
        place -= 1
        while place >= 0 and not _same(given[place], const):
            place -= 1
        if place < 0:
            return None
        places.append(place)
    return places[::-1]


def _same(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.size == b.size and np.array_equal(a.ravel(), b.ravel())


def _templates(consts: list[Array], n: int) -> list[Array]:
    """Constants that make the comparison ``acc < n``."""
    if consts[-1].dtype == np.int32:  # threshold and flip
        return [np.full(consts[0].shape, n, np.int32), np.zeros(consts[1].shape, np.int32)]
    *factors, limit = consts
    ones = [np.ones(factor.shape, np.float32) for factor in factors]
    return [*ones, np.full(limit.shape, n, np.float32)]

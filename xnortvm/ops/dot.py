# SPDX-License-Identifier: Apache-2.0
"""The packed dot product inside `bconv2d` and `bdense`: counts of differing bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from xnortvm._tvm import te, tirx
from xnortvm.ops.intrinsics import MAX_BYTE_WORDS, popcount_bytes, sum_bytes

if TYPE_CHECKING:
    from xnortvm.schedules.isa import Isa


def split_reduction(extents: Sequence[int], limit: int = MAX_BYTE_WORDS) -> list[tuple[int, int]]:
    """Split each reduction axis evenly into (chunks, words), at most ``limit`` words in a chunk.

    Words are taken from the last axis backwards.

    Examples
    --------
    >>> split_reduction([3, 3, 4])
    [(3, 1), (1, 3), (1, 4)]
    >>> split_reduction([1, 1, 48])
    [(1, 1), (1, 1), (2, 24)]
    """
    split: list[tuple[int, int]] = []
    room = limit
    for extent in reversed(extents):
        inner = max(size for size in range(1, room + 1) if extent % size == 0)
        split.append((extent // inner, inner))
        room = room // inner if inner == extent else 1
    return split[::-1]


def differing_bits(
    shape: Sequence[int],
    extents: Sequence[int],
    xor: Callable[[Sequence[Any], Sequence[Any]], Any],
    isa: Isa,
    op: str,
) -> Any:
    """Return the tensor of summed popcounts.

    Parameters
    ----------
    shape : sequence of int
        Shape of the result, channels last.
    extents : sequence of int
        The reduction: words in each of its axes.
    xor : callable
        From the indices of the result and of the reduction to the word of differing bits.
    isa : Isa
        Decides between counts in words and counts in byte lanes.
    op : str
        Block attribute "xnortvm.op".

    Notes
    -----
    In byte lanes four sums run side by side, one per byte of the word. A byte holds
    31 · 8 = 248 at most, so the reduction is cut into chunks of up to 31 words (``bytes``),
    and the four bytes are added up once per chunk (``count``).
    """
    attrs = {"xnortvm.op": op}
    if isa.popcount == "word":
        axes = [te.reduce_axis((0, extent), f"r{i}") for i, extent in enumerate(extents)]
        return te.compute(
            shape,
            lambda *index: te.sum(tirx.popcount(xor(index, axes)), axis=axes),
            name="count",
            attrs=attrs,
        )
    split = split_reduction(extents)
    inner = [te.reduce_axis((0, size), f"r{i}") for i, (_, size) in enumerate(split)]
    cut = [i for i, (chunks, _) in enumerate(split) if chunks > 1]

    def words_at(index: Sequence[Any]) -> Any:
        outer = dict(zip(cut, index[len(shape) :], strict=True))
        at = [outer[i] * split[i][1] + axis if i in outer else axis for i, axis in enumerate(inner)]
        return te.sum(popcount_bytes(xor(index[: len(shape)], at)), axis=inner)

    chunk_shape = [split[i][0] for i in cut]
    by_bytes = te.compute(
        (*shape, *chunk_shape),
        lambda *index: words_at(index),
        name="bytes",
        attrs={"xnortvm.op": f"{op}.bytes"},
    )
    if not cut:
        return te.compute(
            shape,
            lambda *index: sum_bytes(by_bytes(*index), isa.sum_bytes),
            name="count",
            attrs=attrs,
        )
    outer = [te.reduce_axis((0, size), f"q{i}") for i, size in enumerate(chunk_shape)]
    return te.compute(
        shape,
        lambda *index: te.sum(sum_bytes(by_bytes(*index, *outer), isa.sum_bytes), axis=outer),
        name="count",
        attrs=attrs,
    )

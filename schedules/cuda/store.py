# SPDX-License-Identifier: Apache-2.0
"""The end of a kernel on tensor cores: sums in the registers of `mma` → the outputs.

Lane 4g + t of a warp holds, of each 8 channels, channels 2t and 2t + 1 of row g. Floats are stored
from there. A word of bits is 4 times 8 channels: a lane has 8 of its bits, and two shuffles join
those of the 4 lanes of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xnortvm._tvm import tirx
from xnortvm.ops.layout import WORD, words
from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda import emit as e
from xnortvm.schedules.cuda.epilogue import Epilogue, Output
from xnortvm.schedules.cuda.gemm import ceil, pixel_of


@dataclass(frozen=True)
class Columns:
    """The output channels that a warp holds: ``first + 8·j + 2t + b``.

    Attributes
    ----------
    lane : expression
        t.
    group : expression
        Number of the first channel of the group.
    first : expression
        Within the group; a multiple of 32 where outputs are packed.
    eights : int
        How many times 8 channels.
    limit : int
        Channels of the group.
    exact : bool
        Whether all of them exist.
    """

    lane: Any
    group: Any
    first: Any
    eights: int
    limit: int
    exact: bool

    def local(self, eight: Any, half: Any) -> Any:
        """Return the channel within the group."""
        return self.first + self.lane * 2 + eight * 8 + half


@dataclass(frozen=True)
class Sums:
    """What a warp holds when it is done.

    Attributes
    ----------
    rows : int
        Rows that a lane holds.
    pixel : callable
        From 0 … rows - 1 to the output pixel (n, y, x) and whether it exists (True: always). Lanes
        without a pixel take part in shuffles, and read where they are told.
    count : callable
        From the number of a row, eight and half to the sum, int32.
    """

    rows: int
    pixel: Callable[[Any], tuple[tuple[Any, ...], Any]]
    count: Callable[[Any, Any, Any], Any]


def pixel_of_row(problem: Problem, row: Any, exact: bool) -> tuple[tuple[Any, ...], Any]:
    """Return the pixel of a row, or of the last one, and whether the row exists."""
    row = e.let("row", row)
    exists = True if exact else row < problem.pixels
    clamped = row if exact else e.let("clamped", tirx.min(row, problem.pixels - 1))
    return pixel_of(problem, clamped), exists


def store_sums(epilogue: Epilogue, columns: Columns, sums: Sums) -> None:
    """Compute and store the outputs of what a warp holds.

    32 channels at a time: the CUDA compiler keeps what an epilogue reads of them in registers for
    all rows, beside the sums.
    """
    scratch = e.registers("scratch", 2)
    with e.unroll("word", ceil(columns.eights, 4)) as word, e.unroll("r", sums.rows) as r:
        indices, exists = sums.pixel(r)
        names = zip(("image", "y", "x"), indices, strict=True)
        pixel = tuple(e.let(name, value) for name, value in names)
        for output in epilogue.outputs:
            if output.packed:
                _store_word(output, columns, sums, (r, word), pixel, exists, scratch)
            else:
                _store_elements(output, columns, sums, (r, word), pixel, exists)


def _store_elements(
    output: Output,
    columns: Columns,
    sums: Sums,
    place: tuple[Any, Any],
    pixel: tuple[Any, ...],
    exists: Any,
) -> None:
    r, word = place
    with e.unroll("in_word", min(4, columns.eights)) as in_word, e.unroll("half", 2) as half:
        eight = word * 4 + in_word
        local = e.let("local", columns.local(eight, half))
        inside = True if columns.exact else local < columns.limit
        with e.when(e.both(exists, inside)):
            index = (*pixel, e.let("o", columns.group + local))
            value = output.element(e.let("count", sums.count(r, eight, half)), index)
            e.store(output.buffer, value, *_at(output, index))


def _store_word(
    output: Output,
    columns: Columns,
    sums: Sums,
    place: tuple[Any, Any],
    pixel: tuple[Any, ...],
    exists: Any,
    scratch: Any,
) -> None:
    r, word = place
    e.store(scratch, e.u32(0), 0)
    with e.unroll("eight", min(4, columns.eights)) as eight, e.unroll("half", 2) as half:
        local = e.let("local", columns.local(word * 4 + eight, half))
        clamped = local if columns.exact else tirx.min(local, columns.limit - 1)
        index = (*pixel, e.let("o", columns.group + clamped))
        bit = output.element(e.let("count", sums.count(r, word * 4 + eight, half)), index)
        if not columns.exact:
            bit = tirx.all(bit, local < columns.limit)
        mask = tirx.Select(bit, e.u32(1), e.u32(0)) << e.u32(eight * 8 + half)
        e.store(scratch, e.load(scratch, 0) | mask, 0)
    e.store(scratch, e.load(scratch, 0) << e.u32(columns.lane * 2), 0)
    for bits in (1, 2):
        e.shuffle_xor(scratch, 0, 1, bits)
        e.store(scratch, e.load(scratch, 0) | e.load(scratch, 1), 0)
    number = e.let("number", tirx.floordiv(columns.first, WORD) + word)
    writes = e.both(exists, columns.lane.equal(tirx.floormod(word, 4)))
    if not columns.exact:
        writes = e.both(writes, number < words(columns.limit))
    with e.when(writes):
        index = (*pixel, tirx.floordiv(columns.group, WORD) + number)
        e.store(output.buffer, e.load(scratch, 0), *_at(output, index))


def _at(output: Output, index: Sequence[Any]) -> Sequence[Any]:
    return index if len(output.buffer.shape) == len(index) else (index[0], index[-1])

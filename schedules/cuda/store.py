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
from xnortvm.schedules.cuda import emit as e
from xnortvm.schedules.cuda.epilogue import Epilogue, Output


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

    def local(self, eight: int, half: int) -> Any:
        """Return the channel within the group."""
        return self.first + self.lane * 2 + (eight * 8 + half)


def store_row(
    epilogue: Epilogue,
    columns: Columns,
    pixel: tuple[Any, Any, Any],
    exists: Any,
    count: Callable[[int, int], Any],
    scratch: Any,
) -> None:
    """Store the elements of one row of a warp.

    Parameters
    ----------
    pixel : (n, y, x)
        Of a pixel that exists, also where `exists` is false.
    exists : expression or True
        Whether the row is stored.
    count : callable
        From eight and half to the sum, int32.
    scratch : buffer
        2 registers, uint32.
    """
    counts = {
        (eight, half): e.let("count", count(eight, half))
        for eight in range(columns.eights)
        for half in range(2)
    }
    for output in epilogue.outputs:
        if output.packed:
            for word in range(words(columns.eights * 8)):
                _store_word(output, columns, pixel, exists, counts, word, scratch)
            continue
        for (eight, half), value in counts.items():
            local = columns.local(eight, half)
            inside = True if columns.exact else local < columns.limit
            with e.when(e.both(exists, inside)):
                index = (*pixel, e.let("o", columns.group + local))
                e.store(output.buffer, output.element(value, index), *_at(output, index))


def _store_word(
    output: Output,
    columns: Columns,
    pixel: tuple[Any, Any, Any],
    exists: Any,
    counts: dict[tuple[int, int], Any],
    word: int,
    scratch: Any,
) -> None:
    parts: list[Any] = []
    for eight in range(4 * word, min(4 * word + 4, columns.eights)):
        for half in range(2):
            local = columns.local(eight, half)
            if not columns.exact:
                local = e.let("local", local)
            clamped = local if columns.exact else tirx.min(local, columns.limit - 1)
            index = (*pixel, e.let("o", columns.group + clamped))
            bit = output.element(counts[eight, half], index)
            if not columns.exact:
                bit = tirx.all(bit, local < columns.limit)
            mask = e.u32(1 << (eight % 4 * 8 + half))
            parts.append(e.let("bit", tirx.Select(bit, mask, e.u32(0))))
    joined = parts[0]
    for part in parts[1:]:
        joined = joined | part
    e.store(scratch, joined << e.u32(columns.lane * 2), 0)
    for bits in (1, 2):
        e.shuffle_xor(scratch, 0, 1, bits)
        e.store(scratch, e.load(scratch, 0) | e.load(scratch, 1), 0)
    number = tirx.floordiv(columns.first, WORD) + word
    writes = e.both(exists, columns.lane.equal(word % 4))
    if not columns.exact:
        writes = e.both(writes, number < words(columns.limit))
    with e.when(writes):
        index = (*pixel, tirx.floordiv(columns.group, WORD) + number)
        e.store(output.buffer, e.load(scratch, 0), *_at(output, index))


def _at(output: Output, index: Sequence[Any]) -> Sequence[Any]:
    return index if len(output.buffer.shape) == len(index) else (index[0], index[-1])

# SPDX-License-Identifier: Apache-2.0
"""The end of a kernel on tensor cores: sums in the registers of `mma` → the outputs.

Lane 4g + t of a warp holds, of each 16 channels of row g, the four neighbours 4t … 4t + 3: the rows
of the weights are in the order that makes it so (`weights.LANES`). So four elements are one vector
in memory, of an output and of whatever the epilogue reads for each channel: 16 bytes of fp32, 8 of
fp16. Four lanes of a row touch whole sectors of 32 bytes. A word of bits is 2 times 16 channels: a
lane has 8 of its bits, and two shuffles join those of the 4 lanes of a row.

All outputs of four channels are computed side by side, so that what they have in common is computed
once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from xnortvm._tvm import tirx
from xnortvm.ops.layout import WORD, words
from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda import emit as e
from xnortvm.schedules.cuda.epilogue import Epilogue, Output, indices_in
from xnortvm.schedules.cuda.gemm import ceil, pixel_of

#: Neighbouring channels that a lane holds.
FOUR = 4


@dataclass(frozen=True)
class Columns:
    """The output channels that a warp holds; a lane those of `local`.

    Attributes
    ----------
    lane : expression
        t.
    group : expression
        Number of the first channel of the group.
    first : expression
        Within the group; a multiple of 16, of 32 where outputs are packed.
    eights : int
        How many times 8 channels: an even number.
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

    @classmethod
    def of(
        cls, problem: Problem, lane: Any, group: Any, first: Any, columns: int, block: int
    ) -> Columns:
        """Return the channels of a warp.

        Parameters
        ----------
        lane : expression
            Of the warp's 32.
        group, first : expression
            Number of the group, and of the first channel within it.
        columns, block : int
            Channels of the warp and of its block, those that do not exist included.
        """
        limit = problem.outputs // problem.groups
        quad = e.let("quad", tirx.floormod(lane, 4))
        return cls(quad, group * limit, first, columns // 8, limit, limit % block == 0)

    def local(self, eight: Any, half: Any) -> Any:
        """Return the channel within the group that column ``8·eight + 2t + half`` holds."""
        four = tirx.floordiv(eight, 2)
        return self.four(four) + tirx.floormod(eight, 2) * 2 + half

    def four(self, number: Any) -> Any:
        """Return the first of four channels within the group."""
        return self.first + number * 16 + self.lane * FOUR

    @property
    def vectors(self) -> bool:
        """Whether four channels are a vector in memory, all of them or none within the group."""
        return self.limit % FOUR == 0


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
    added : (tirx.Buffer, expression), optional
        A number for each channel that is added to the sum, int32, and where those of the group
        start: a multiple of 4.
    """

    rows: int
    pixel: Callable[[Any], tuple[tuple[Any, ...], Any]]
    count: Callable[[Any, Any, Any], Any]
    added: tuple[Any, Any] | None = None


def pixel_of_row(problem: Problem, row: Any, exact: bool) -> tuple[tuple[Any, ...], Any]:
    """Return the pixel of a row, or of the last one, and whether the row exists."""
    row = e.let("row", row)
    exists = True if exact else row < problem.pixels
    clamped = row if exact else e.let("clamped", tirx.min(row, problem.pixels - 1))
    return pixel_of(problem, clamped), exists


def store_sums(epilogue: Epilogue, columns: Columns, sums: Sums) -> None:
    """Compute and store the outputs of what a warp holds.

    32 channels of a row at a time, behind a branch: the CUDA compiler would load what an epilogue
    reads for all of them at once, and has no registers for that beside the sums.
    """
    packed = [output for output in epilogue.outputs if output.packed]
    bits = {output.buffer: e.registers("bits", 2) for output in packed}
    pixels = _Pixels(sums)
    quarter = tirx.floordiv(columns.group + columns.first, FOUR) + columns.lane
    quarter = e.let("quarter", quarter)
    with e.unroll("word", ceil(columns.eights, 4)) as word, e.unroll("r", sums.rows) as r:
        pixel, exists = pixels.of(r)
        for buffer in bits.values():
            e.store(buffer, e.u32(0), 0)
        with e.when(exists), e.unroll("part", min(2, columns.eights // 2)) as part:
            _Four(columns, sums, r, word * 2 + part, pixel, quarter, bits).compute(epilogue.outputs)
        for output in packed:
            _store_word(output, bits[output.buffer], columns, word, pixel, exists)


class _Pixels:
    """The output pixels of a lane's rows, found once and kept in registers."""

    def __init__(self, sums: Sums) -> None:
        self.all = True
        names = "image", "y", "x", "exists"
        self.kept = [e.registers(f"{name}_of_row", sums.rows, "int32") for name in names]
        with e.unroll("r", sums.rows) as r:
            indices, exists = sums.pixel(r)
            if exists is not True:
                self.all = False
                indices = *indices, tirx.Select(exists, e.i32(1), e.i32(0))
            for kept, value in zip(self.kept, indices, strict=False):
                e.store(kept, e.i32(value) if isinstance(value, int) else value, r)

    def of(self, row: Any) -> tuple[tuple[Any, ...], Any]:
        """Return the pixel of a row, and whether it exists (True: always)."""
        image, y, x = (e.let("at", e.load(kept, row)) for kept in self.kept[:3])
        return (image, y, x), self.all or e.load(self.kept[3], row).equal(1)


@dataclass
class _Four:
    """Four channels of one pixel: 4 · `quarter` is the first of all channels of this lane."""

    columns: Columns
    sums: Sums
    row: Any
    number: Any
    pixel: tuple[Any, ...]
    quarter: Any
    bits: dict[Any, Any]
    loaded: dict[Any, Any] = field(default_factory=dict)

    def compute(self, outputs: Sequence[Output]) -> None:
        """Compute their elements of all outputs, and store those that are no bits."""
        columns = self.columns
        self.local = columns.four(self.number)
        quarter = self.quarter + self.number * FOUR
        if not columns.exact:
            last = tirx.floordiv(columns.group + columns.limit, FOUR) - 1
            quarter = e.let("quarter", tirx.min(quarter, last))
        self.first = quarter * FOUR
        if self.sums.added is not None:
            buffer, offset = self.sums.added
            own = tirx.floordiv(offset + columns.first, FOUR) + columns.lane
            self.added = _vector(buffer, [(own + self.number * FOUR) * FOUR])
        if columns.vectors:
            self._load(outputs)
        plain = [output.buffer for output in outputs if not output.packed]
        values = {buffer: e.registers("value", FOUR, str(buffer.dtype)) for buffer in plain}
        with e.unroll("b", FOUR) as b:
            self._compute(outputs, values, b)
        if columns.vectors:
            with e.when(self._inside(self.local)):
                index = (*self.pixel, tirx.Ramp(self.first, e.i32(1), FOUR))
                for buffer, value in values.items():
                    e.store(buffer, e.load(value, _ALL), *indices_in(buffer, index))

    def _load(self, outputs: Sequence[Output]) -> None:
        """Load what the elements read for each channel, four at a time."""
        channel = tirx.Var("o", "int32")
        found: dict[Any, tuple[Any, list[Any]]] = {}

        def see(buffer: Any, at: list[Any]) -> Any:
            if at and at[-1].same_as(channel):  # a scalar has no index
                found[_key(buffer, at)] = buffer, at[:-1]
            return tirx.BufferLoad(buffer, at)

        for output in outputs:
            output.element(tirx.Var("count", "int32"), (*self.pixel, channel), see)
        for key, (buffer, at) in found.items():
            self.loaded[key] = _vector(buffer, [*at, self.first])

    def _compute(self, outputs: Sequence[Output], values: dict[Any, Any], b: Any) -> None:
        """Compute one element of each output; where four are no vector, store it."""
        columns = self.columns
        local = e.let("local", self.local + b)
        channel = self.first + b
        if not columns.vectors:
            channel = columns.group + tirx.min(local, columns.limit - 1)
        index = (*self.pixel, e.let("o", channel))
        count = self.sums.count(
            self.row, self.number * 2 + tirx.floordiv(b, 2), tirx.floormod(b, 2)
        )
        if self.sums.added is not None:
            count = count + e.load(self.added, b)
        count = e.let("count", count)

        def load(buffer: Any, at: list[Any]) -> Any:
            vector = self.loaded.get(_key(buffer, at))
            return tirx.BufferLoad(buffer, at) if vector is None else e.load(vector, b)

        for output in outputs:
            value = output.element(count, index, load)
            if output.packed:
                self._add_bit(self.bits[output.buffer], value, b)
            elif columns.vectors:
                e.store(values[output.buffer], value, b)
            else:
                with e.when(self._inside(local)):
                    e.store(output.buffer, value, *indices_in(output.buffer, index))

    def _add_bit(self, word: Any, bit: Any, b: Any) -> None:
        bit = e.both(self._inside(self.local + b), bit)
        place = e.u32(tirx.floormod(self.number, 2) * 16 + b)
        mask = tirx.Select(bit, e.u32(1), e.u32(0)) << place
        e.store(word, e.load(word, 0) | mask, 0)

    def _inside(self, local: Any) -> Any:
        return True if self.columns.exact else local < self.columns.limit


#: The registers of a vector.
_ALL = tirx.Ramp(e.i32(0), e.i32(1), FOUR)


def _vector(buffer: Any, at: list[Any]) -> Any:
    """Load four neighbours into registers."""
    registers = e.registers(f"{buffer.name}_four", FOUR, str(buffer.dtype))
    e.store(registers, e.load(buffer, *at[:-1], tirx.Ramp(at[-1], e.i32(1), FOUR)), _ALL)
    return registers


def _key(buffer: Any, at: list[Any]) -> tuple[Any, ...]:
    return buffer, *map(str, at[:-1])


def _store_word(
    output: Output, bits: Any, columns: Columns, word: Any, pixel: tuple[Any, ...], exists: Any
) -> None:
    """Join the bits of the four lanes of a row, and store the word."""
    e.store(bits, e.load(bits, 0) << e.u32(columns.lane * FOUR), 0)
    for distance in (1, 2):
        e.shuffle_xor(bits, 0, 1, distance)
        e.store(bits, e.load(bits, 0) | e.load(bits, 1), 0)
    number = e.let("number", tirx.floordiv(columns.first, WORD) + word)
    writes = e.both(exists, columns.lane.equal(tirx.floormod(word, 4)))
    if not columns.exact:
        writes = e.both(writes, number < words(columns.limit))
    with e.when(writes):
        index = (*pixel, tirx.floordiv(columns.group, WORD) + number)
        e.store(output.buffer, e.load(bits, 0), *indices_in(output.buffer, index))

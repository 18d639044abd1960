# SPDX-License-Identifier: Apache-2.0
"""Stages of K in shared memory: how kernels on tensor cores get their operands.

A stage holds a tile of rows and a tile of columns, `words` of K each, row after row. Pieces of 16
bytes are swizzled within a row by the number of the row, so that eight rows read side by side meet
no bank twice; for rows of 128 bytes that is the layout which `wgmma` calls 128B swizzle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from xnortvm._tvm import tirx
from xnortvm.schedules.cuda import emit as e
from xnortvm.schedules.cuda.gemm import Gemm, Window, ceil
from xnortvm.schedules.cuda.weights import WeightLayout

#: Words that an asynchronous copy moves at most: 16 bytes.
CHUNK = 4


class Stage(NamedTuple):
    """Sizes of a stage.

    Attributes
    ----------
    rows, columns : int
        Of the block's tile.
    words : int
        Of K.
    """

    rows: int
    columns: int
    words: int

    @property
    def size(self) -> int:
        """Words of a stage."""
        return (self.rows + self.columns) * self.words

    def place(self, row: Any, chunk: Any) -> Any:
        """Return where a chunk of a row lies, in words from the start of its matrix."""
        chunks = self.words // CHUNK
        mixed = chunk ^ tirx.floormod(tirx.floordiv(row, max(8 // chunks, 1)), chunks)
        return row * self.words + mixed * CHUNK


@dataclass
class Mover:
    """Copies from global to shared memory, a few words at a time.

    Attributes
    ----------
    shared : Shared
    asynchronous : bool
        Whether the architecture has copies that no register holds.
    """

    shared: e.Shared
    asynchronous: bool = True

    def move(self, buffer: Any, source: Any, to: Any, size: int, inside: Any) -> None:
        """Copy words, or zeros where they are not inside."""
        safe = source if inside is True else tirx.Select(inside, source, e.i32(0))
        safe = e.let("source", safe)
        if self.asynchronous:
            cache = "cg" if size == CHUNK else "ca"
            read = e.u32(size * 4)
            read = read if inside is True else tirx.Select(inside, read, e.u32(0))
            place, pointer = self.shared.address(to * 4), e.address(e.at(buffer, safe))
            e.ptx(f"cp.async.{cache}.shared.global", place, pointer, size * 4, read)
            return
        # Sources are multiples of the size, which TVM has to see: else it loads word by word.
        value = e.vector(buffer, (safe >> size.bit_length() - 1) * size, size)
        if inside is not True:
            kept = e.let("kept", tirx.Select(inside, e.u32(0xFFFFFFFF), e.u32(0)))
            value = value & (kept if size == 1 else tirx.Broadcast(kept, size))
        self.shared.store(to if size == 1 else tirx.Ramp(to, e.i32(1), size), value)

    def commit(self) -> None:
        """End a group of copies."""
        if self.asynchronous:
            e.ptx("cp.async.commit_group")

    def wait(self, allowed: int) -> None:
        """Wait until at most so many groups of this thread are under way."""
        if self.asynchronous:
            e.ptx("cp.async.wait_group", allowed)


@dataclass
class Windows:
    """Copies the windows of output pixels: the rows of a stage.

    Attributes
    ----------
    gemm : Gemm
    stage : Stage
    threads : int
        That take part.
    mover : Mover
    activations : tirx.Buffer
    thread, group : expression
        The number of the thread among those; the group of channels.
    """

    gemm: Gemm
    stage: Stage
    threads: int
    mover: Mover
    activations: Any
    thread: Any
    group: Any

    def __post_init__(self) -> None:
        pieces = self.stage.words // self.gemm.piece
        self.row = e.let("copy_row", tirx.floordiv(self.thread, pieces))
        self.piece = e.let("copy_piece", tirx.floormod(self.thread, pieces))
        self.step = self.threads // pieces
        self.count = ceil(self.stage.rows, self.step)
        self.window = Window(self.gemm, self.group, self.count)

    def set_rows(self, first: Any) -> None:
        """Find the windows of the pixels from `first` on, in place of those behind the last its."""
        with e.unroll("i", self.count) as i:
            row = first + self.row + i * self.step
            if self.gemm.rows % self.stage.rows:
                row = tirx.min(row, self.gemm.rows - 1)
            self.window.set_row(i, e.let("row", row))

    def copy(self, place: Any, k: Any) -> None:
        """Copy stage `k` of K to a place in shared memory; what lies behind K is zeros."""
        gemm, size = self.gemm, self.gemm.piece
        word = e.let("word", k * self.stage.words + self.piece * size)
        offset, dy, dx, channel = self.window.step(word)
        exists = True if gemm.words % self.stage.words == 0 else word < gemm.words
        chunk = tirx.floordiv(self.piece, CHUNK // size)
        rest = tirx.floormod(self.piece, CHUNK // size) * size
        with e.unroll("i", self.count) as i:
            row = e.let("local", self.row + i * self.step)
            with e.when(row < self.stage.rows if self.stage.rows % self.step else True):
                inside = e.both(exists, self.window.inside(i, dy, dx))
                source = e.load(self.window.offset, i) + offset
                to = e.let("to", place + self.stage.place(row, chunk) + rest)
                if gemm.problem.pad_value == -1 and self.window.padded:
                    e.when_else(
                        inside,
                        lambda to=to, source=source: self.mover.move(  # type: ignore[misc]
                            self.activations, source, to, size, True
                        ),
                        lambda to=to: self._fill(to, channel, exists),  # type: ignore[misc]
                    )
                else:
                    self.mover.move(self.activations, source, to, size, inside)

    def _fill(self, to: Any, channel: Any, exists: Any) -> None:
        """Store what padding by −1 reads as."""
        for i in range(self.gemm.piece):
            value = self.gemm.problem.padding_word(channel + i)
            if exists is not True:
                value = tirx.Select(exists, value, e.u32(0))
            self.mover.shared.store(to + i, value)


@dataclass
class Copies:
    """Copies stages of windows and weights; all threads of the block take part.

    Attributes
    ----------
    windows : Windows
    layout : WeightLayout
    weights : tirx.Buffer
    first_column : expression
        Of this block, within the group.
    """

    windows: Windows
    layout: WeightLayout
    weights: Any
    first_column: Any

    def copy(self, slot: Any, k: Any) -> None:
        """Copy stage `k` of K to a slot of shared memory; what lies behind K is zeros."""
        stage = self.windows.stage
        place = e.let("place", slot * stage.size)
        self.windows.copy(place, k)
        self._copy_weights(place + stage.rows * stage.words, k)

    def _copy_weights(self, place: Any, k: Any) -> None:
        windows = self.windows
        stage = windows.stage
        chunks = stage.words // CHUNK
        step = windows.threads // chunks
        row = tirx.floordiv(windows.thread, chunks)
        chunk = tirx.floormod(windows.thread, chunks)
        word = e.let("word", k * stage.words + chunk * CHUNK)
        exists = True if self.layout.words % stage.words == 0 else word < self.layout.words
        first = self.first_column + windows.group * self.layout.outputs
        with e.unroll("i", ceil(stage.columns, step)) as i:
            local = e.let("local", row + i * step)
            with e.when(local < stage.columns if stage.columns % step else True):
                source = (first + local) * self.layout.words + word
                to = e.let("to", place + stage.place(local, chunk))
                windows.mover.move(self.weights, source, to, CHUNK, exists)

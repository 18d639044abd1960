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
class Copies:
    """Copies stages; all threads of the block take part.

    Attributes
    ----------
    gemm : Gemm
    layout : WeightLayout
    stage : Stage
    threads : int
    asynchronous : bool
        Whether the architecture has copies from global to shared memory.
    activations, weights : tirx.Buffer
    shared : Shared
    thread, group, first_row, first_column : expression
        Of this block; rows and columns within the group.
    """

    gemm: Gemm
    layout: WeightLayout
    stage: Stage
    threads: int
    asynchronous: bool
    activations: Any
    weights: Any
    shared: e.Shared
    thread: Any
    group: Any
    first_row: Any
    first_column: Any

    def __post_init__(self) -> None:
        pieces = self.stage.words // self.gemm.piece
        self.row = e.let("copy_row", tirx.floordiv(self.thread, pieces))
        self.piece = e.let("copy_piece", tirx.floormod(self.thread, pieces))
        self.step = self.threads // pieces
        self.count = ceil(self.stage.rows, self.step)
        self.window = Window(self.gemm, self.group, self.count)
        with e.unroll("i", self.count) as i:
            row = self.first_row + self.row + i * self.step
            if self.gemm.rows % self.stage.rows:
                row = tirx.min(row, self.gemm.rows - 1)
            self.window.set_row(i, e.let("row", row))

    def copy(self, slot: Any, k: Any) -> None:
        """Copy stage `k` of K to a slot of shared memory; what lies behind K is zeros."""
        place = e.let("place", slot * self.stage.size)
        self._copy_activations(place, k)
        self._copy_weights(place + self.stage.rows * self.stage.words, k)

    def commit(self) -> None:
        """End a group of copies."""
        if self.asynchronous:
            e.ptx("cp.async.commit_group")

    def wait(self, allowed: int) -> None:
        """Wait until at most so many groups of this thread are under way."""
        if self.asynchronous:
            e.ptx("cp.async.wait_group", allowed)

    def _copy_activations(self, place: Any, k: Any) -> None:
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
                        lambda to=to, source=source: self._move(  # type: ignore[misc]
                            self.activations, source, to, size, True
                        ),
                        lambda to=to: self._fill(to, channel, exists),  # type: ignore[misc]
                    )
                else:
                    self._move(self.activations, source, to, size, inside)

    def _copy_weights(self, place: Any, k: Any) -> None:
        chunks = self.stage.words // CHUNK
        step = self.threads // chunks
        row = tirx.floordiv(self.thread, chunks)
        chunk = tirx.floormod(self.thread, chunks)
        word = e.let("word", k * self.stage.words + chunk * CHUNK)
        exists = True if self.layout.words % self.stage.words == 0 else word < self.layout.words
        first = self.first_column + self.group * self.layout.outputs
        with e.unroll("i", ceil(self.stage.columns, step)) as i:
            local = e.let("local", row + i * step)
            with e.when(local < self.stage.columns if self.stage.columns % step else True):
                source = (first + local) * self.layout.words + word
                to = e.let("to", place + self.stage.place(local, chunk))
                self._move(self.weights, source, to, CHUNK, exists)

    def _move(self, buffer: Any, source: Any, to: Any, size: int, inside: Any) -> None:
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
        value = e.vector(buffer, safe, size)
        if inside is not True:
            zero = e.u32(0) if size == 1 else tirx.Broadcast(e.u32(0), size)
            value = tirx.if_then_else(inside, value, zero)
        self.shared.store(to if size == 1 else tirx.Ramp(to, e.i32(1), size), value)

    def _fill(self, to: Any, channel: Any, exists: Any) -> None:
        """Store what padding by −1 reads as."""
        for i in range(self.gemm.piece):
            value = self.gemm.problem.padding_word(channel + i)
            if exists is not True:
                value = tirx.Select(exists, value, e.u32(0))
            self.shared.store(to + i, value)

# SPDX-License-Identifier: Apache-2.0
"""K1: convolutions and dense layers as matrix products on CUDA cores, packed and float.

A block of threads computes a tile of output pixels × channels. The sum is cut into chunks; the
elements of a chunk that the tile reads, of the image (no im2col buffer: each tap at its place) and
of the weights, are staged in shared memory by vector loads, and every thread keeps its part of the
tile in registers::

    block     WARPS · rows pixels × 32 · columns channels
      warp    rows pixels × 32 · columns channels
        lane  rows pixels × columns channels, 32 apart: neighbouring lanes, neighbouring channels

All lanes of a warp read the same pixel, which shared memory broadcasts, and each its own weights,
128 bits at a time from rows an odd number of vectors long, without bank conflicts. A word of packed
bits of the next layer is one ballot.

Counting. POPC runs at a quarter of the rate of LOP3 (16 and 64 lanes a clock on every architecture
of the table), so four words are first added bit by bit: full adders keep the ones and twos of all
words so far, and one POPC counts the fours. That is 10 LOP3 and 1 POPC where counting each word
takes 4 LOP3 and 4 POPC; by instruction rates 1.6 times as fast (an estimate: not measured).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import gcd
from typing import Any, NamedTuple

from xnortvm._tvm import tirx
from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda import emit as e
from xnortvm.schedules.cuda.epilogue import Anchor, Epilogue
from xnortvm.schedules.cuda.gemm import ceil, pixel_of
from xnortvm.schedules.cuda.lanes import Lanes, write
from xnortvm.schedules.cuda.layers import product_of, read_layer

#: Warps of a block, and elements that a thread reads from shared memory at once.
WARPS, VECTOR = 8, 4
THREADS = WARPS * e.WARP
#: Vectors of one chunk of the sum, at most: both operands' tiles have to fit 48 KiB.
MOST_VECTORS = {True: 9, False: 8}
#: Blocks that keep the largest GPUs busy; smaller tiles are taken where there are fewer.
ENOUGH_BLOCKS = 264


class Tile(NamedTuple):
    """What there is to decide.

    Attributes
    ----------
    rows, columns : int
        Pixels and channels of a thread.
    vectors : int
        Of 4 elements, that are staged together.
    carry_save : bool
        Whether words are added bit by bit before they are counted.
    """

    rows: int
    columns: int
    vectors: int
    carry_save: bool

    @property
    def pixels(self) -> int:
        """Pixels of a block."""
        return self.rows * WARPS

    @property
    def channels(self) -> int:
        """Channels of a block."""
        return self.columns * e.WARP

    @property
    def chunk(self) -> int:
        """Elements of the sum that are staged together."""
        return self.vectors * VECTOR

    @property
    def pitch(self) -> int:
        """Elements of a row in shared memory: an odd number of vectors."""
        return (self.vectors | 1) * VECTOR


class _Place(NamedTuple):
    """A vector of a row that is staged: which tap and word it is, and whether there is one."""

    row: Any
    column: Any
    ky: Any
    kx: Any
    word: Any
    exists: Any


def takes(anchor: Anchor | None) -> bool:
    """Whether the template computes a sum: no groups, and operands that are parameters."""
    problem = product_of(anchor)
    return problem is not None and problem.groups == 1


def tile_for(problem: Problem) -> Tile:
    """Return the tile that keeps a GPU busy and reads its operands least often."""
    columns = 4 if problem.outputs > 2 * e.WARP and not problem.packed else 2
    columns = min(columns, ceil(problem.outputs, e.WARP))
    tiles_of_channels = ceil(problem.outputs, columns * e.WARP)

    def blocks(rows: int) -> int:
        return ceil(problem.pixels, rows * WARPS) * tiles_of_channels

    rows = next((rows for rows in (8, 4, 2) if blocks(rows) >= ENOUGH_BLOCKS), 1)
    vectors = ceil(problem.steps, VECTOR)
    chunks = ceil(vectors, MOST_VECTORS[problem.packed])
    carry_save = problem.packed and vectors >= 2
    return Tile(rows, columns, ceil(vectors, chunks), carry_save)


def tile(func: Any, _arch: str = "", wanted: Tile | None = None) -> Any:
    """Return the kernel.

    Parameters
    ----------
    func : tirx.PrimFunc
        With 32-bit indices; `takes` its anchor.
    wanted : Tile, optional
        The rule chooses without.

    Raises
    ------
    NotElementwiseError
        When the epilogue is none of elements.
    """
    layer = read_layer(func)
    made = wanted or tile_for(layer.problem)
    kernel = _Kernel(made, *layer)
    grid = ceil(layer.problem.pixels, made.pixels), ceil(layer.lanes.count, made.channels)
    return e.build(func.params, func.attrs, e.Launch(grid, THREADS, kernel.emit))


@dataclass
class _Kernel:
    tile: Tile
    problem: Problem
    lanes: Lanes
    epilogue: Epilogue
    image: Any
    weights: Any

    def __post_init__(self) -> None:
        problem = self.problem
        self.dtype = "uint32" if problem.packed else "float32"
        self.sum_dtype = "int32" if problem.packed else "float32"
        self.width = gcd(problem.words, VECTOR)  # of global loads: taps are not contiguous
        if problem.packed and problem.pad_value == -1 and problem.channels % e.WARP:
            self.width = 1  # words of padding differ
        #: Places of all tiles, of which the last may be part empty.
        self.places = ceil(self.lanes.count, self.tile.channels) * self.tile.channels

    def emit(self, blocks: list[Any], thread: Any) -> None:
        """Emit the kernel."""
        made, problem = self.tile, self.problem
        self.thread = thread
        self.warp = e.let("warp", tirx.floordiv(thread, e.WARP))
        self.lane = e.let("lane", tirx.floormod(thread, e.WARP))
        self.first_pixel = e.let("first_pixel", blocks[0] * made.pixels)
        self.first_place = e.let("first_place", blocks[1] * made.channels)
        self._find_windows()
        self.images = e.shared("images", (made.pixels, made.pitch), self.dtype)
        self.staged = e.shared("staged", (made.channels, made.pitch), self.dtype)
        self.pixel = e.registers("pixel", made.rows * VECTOR, self.dtype)
        self.weight = e.registers("weight", made.columns * VECTOR, self.dtype)
        if problem.masked:
            self.masks = e.shared("masks", (made.channels, made.pitch), self.dtype)
            self.mask = e.registers("mask", made.columns * VECTOR, self.dtype)
        self.acc = self._zeros("acc", self.sum_dtype)
        if made.carry_save:
            self.ones, self.twos = self._zeros("ones", "uint32"), self._zeros("twos", "uint32")
        with e.loop("chunk", ceil(problem.steps, made.chunk)) as chunk:
            self._stage_pixels(chunk)
            self._stage_weights(chunk)
            e.barrier()
            with e.loop("vector", made.vectors, rolled=made.rows * made.columns >= 8) as vector:
                self._vector(vector)
            e.barrier()
        if made.carry_save:
            self._count_rest()
        for i in range(made.rows):  # no loop: TVM finds out which rows share a border
            self._finish(i)

    # ---- before the sum

    def _zeros(self, name: str, dtype: str) -> Any:
        """Return registers of 0 for each sum."""
        count = self.tile.rows * self.tile.columns
        sums = e.registers(name, count, dtype)
        with e.unroll("i", count) as i:
            e.store(sums, tirx.const(0, dtype), i)
        return sums

    def _find_windows(self) -> None:
        """Find out where the windows of the tile's pixels begin."""
        problem = self.problem
        self.windows = e.shared("windows", (self.tile.pixels, 3), "int32")
        with e.when(self.thread < self.tile.pixels):
            n, y, x = pixel_of(problem, self.first_pixel + self.thread)
            first_y = y * problem.strides[0] - problem.padding[0]
            first_x = x * problem.strides[1] - problem.padding[1]
            for i, value in enumerate((n, first_y, first_x)):
                e.store(self.windows, value, self.thread, i)
        e.barrier()

    # ---- the sum

    @contextmanager
    def _vectors(self, name: str, rows: int, chunk: Any) -> Iterator[_Place]:
        """Let the threads of a block go through the vectors of so many rows of a chunk."""
        problem, made = self.problem, self.tile
        per_row = made.chunk // self.width
        count = rows * per_row
        with e.loop(f"{name}_step", ceil(count, THREADS)) as i:
            number = e.let(f"{name}_vector", i * THREADS + self.thread)
            with e.when(number < count if count % THREADS else True):
                row = tirx.floordiv(number, per_row)
                column = tirx.floormod(number, per_row) * self.width
                step = chunk * made.chunk + column
                tap, word = tirx.floordiv(step, problem.words), tirx.floormod(step, problem.words)
                ky = tirx.floordiv(tap, problem.kernel[1])
                kx = tirx.floormod(tap, problem.kernel[1])
                exists = step < problem.steps if problem.steps % made.chunk else True
                yield _Place(row, column, ky, kx, word, exists)

    def _stage_pixels(self, chunk: Any) -> None:
        problem, made = self.problem, self.tile
        with self._vectors("m", made.pixels, chunk) as place:
            n, first_y, first_x = (e.load(self.windows, place.row, i) for i in range(3))
            y = first_y + place.ky * problem.dilation[0]
            x = first_x + place.kx * problem.dilation[1]
            value = self._load(self.image, (n, y, x) if problem.rank == 4 else (n,), place.word)
            if any(problem.padding):
                inside = tirx.all(y >= 0, y < problem.height, x >= 0, x < problem.width)
                outside = self._spread(problem.padding_word(place.word))
                value = e.where(inside, value, outside)
            last = problem.pixels % made.pixels
            real = self.first_pixel + place.row < problem.pixels if last else True
            self._put(self.images, place, e.both(place.exists, real), value)

    def _stage_weights(self, chunk: Any) -> None:
        problem, made = self.problem, self.tile
        with self._vectors("o", made.channels, chunk) as place:
            channel, valid = self.lanes.channel(self.first_place + place.row, self.places)
            exists = e.both(place.exists, valid)
            at = (channel, place.ky, place.kx) if problem.rank == 4 else (channel,)
            self._put(self.staged, place, exists, self._load(self.weights, at, place.word))
            if problem.masked:
                mask = self._load(self.weights, at, place.word + problem.words)
                self._put(self.masks, place, exists, mask)

    def _load(self, buffer: Any, at: tuple[Any, ...], word: Any) -> Any:
        return e.load(buffer, *at, e.run(word, self.width))

    def _put(self, buffer: Any, place: _Place, exists: Any, value: Any) -> None:
        value = e.where(exists, value, self._spread(tirx.const(0, self.dtype)))
        e.store(buffer, value, place.row, e.run(place.column, self.width))

    def _spread(self, value: Any) -> Any:
        return value if self.width == 1 else tirx.Broadcast(value, self.width)

    def _vector(self, vector: Any) -> None:
        """Do one step of the inner loop: a vector of each pixel with one of each channel."""
        made = self.tile

        def read(into: Any, i: Any, source: Any, row: Any) -> None:
            value = e.load(source, row, e.run(vector * VECTOR, VECTOR))
            e.store(into, value, e.run(i * VECTOR, VECTOR))

        with e.unroll("j", made.columns) as j:
            read(self.weight, j, self.staged, self.lane + j * e.WARP)
            if self.problem.masked:
                read(self.mask, j, self.masks, self.lane + j * e.WARP)
        with e.unroll("i", made.rows) as i:
            read(self.pixel, i, self.images, self.warp * made.rows + i)
        with e.unroll("i", made.rows) as i, e.unroll("j", made.columns) as j:
            self._combine(i, j)

    def _combine(self, i: Any, j: Any) -> None:
        at = i * self.tile.columns + j
        total = e.load(self.acc, at)
        pixels = [e.load(self.pixel, i * VECTOR + n) for n in range(VECTOR)]
        weights = [e.load(self.weight, j * VECTOR + n) for n in range(VECTOR)]
        if not self.problem.packed:
            for pixel, weight in zip(pixels, weights, strict=True):
                total = total + pixel * weight
            e.store(self.acc, total, at)
            return
        bits = [pixel ^ weight for pixel, weight in zip(pixels, weights, strict=True)]
        if self.problem.masked:
            bits = [word & e.load(self.mask, j * VECTOR + n) for n, word in enumerate(bits)]
        if self.tile.carry_save:
            total = total + _count(self._carry_save(bits, at)) * 4
        else:
            for word in bits:
                total = total + _count(word)
        e.store(self.acc, total, at)

    def _carry_save(self, bits: list[Any], at: Any) -> Any:
        """Add four words to ones and twos, and return the fours that are carried out."""
        words = [e.let(f"word{n}", word) for n, word in enumerate(bits)]
        ones, two_a = _add(e.load(self.ones, at), *words[:2])
        ones, two_b = _add(ones, *words[2:])
        twos, fours = _add(e.load(self.twos, at), two_a, two_b)
        e.store(self.ones, ones, at)
        e.store(self.twos, twos, at)
        return fours

    def _count_rest(self) -> None:
        """Count the ones and twos that are left."""
        with e.unroll("i", self.tile.rows * self.tile.columns) as i:
            ones, twos = (_count(e.load(buffer, i)) for buffer in (self.ones, self.twos))
            e.store(self.acc, e.load(self.acc, i) + ones + twos * 2, i)

    # ---- behind the sum

    def _finish(self, i: int) -> None:
        """Compute and store the outputs of one pixel's sums."""
        problem, made = self.problem, self.tile
        number = e.let("pixel", self.first_pixel + self.warp * made.rows + i)
        names = zip(("n", "y", "x"), pixel_of(problem, number), strict=True)
        pixel = tuple(e.let(name, value) for name, value in names)
        exists = number < problem.pixels if problem.pixels % made.pixels else True
        with e.unroll("j", made.columns) as j:
            first = e.let("first", self.first_place + j * e.WARP)
            place = e.let("place", first + self.lane)
            channel, valid = self.lanes.channel(place, self.places)
            valid = e.both(exists, valid)
            # A whole warp has no word where its first place is behind the last one.
            some = first < self.lanes.count if self.places > self.lanes.count else True
            stored = e.both(exists, some)
            for output in self.epilogue.outputs:
                acc = e.load(self.acc, i * made.columns + j)
                write(output, acc, (*pixel, channel), place, valid, stored)


def _count(word: Any) -> Any:
    return e.i32(tirx.popcount(word))


#: Tables of LOP3 for a full adder: bit i is the result for the operands' bits i of F0, CC and AA.
SUM, CARRY = 0xF0 ^ 0xCC ^ 0xAA, (0xF0 & 0xCC) | (0xAA & (0xF0 ^ 0xCC))


def _add(x: Any, y: Any, z: Any) -> tuple[Any, Any]:
    """Return sum and carry of each bit: a full adder.

    As PTX: the CUDA compiler regroups exclusive ors across pixels, and needs 12 LOP3 for 4 words.
    """
    added = e.registers("added", 2)
    for number, table in enumerate((SUM, CARRY)):
        e.ptx("lop3.b32", added[number], x, y, z, table)
    return e.load(added, 0), e.load(added, 1)

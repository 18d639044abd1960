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

from collections.abc import Callable
from math import gcd
from typing import Any, NamedTuple

from xnortvm._tvm import tirx
from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda import builder as b
from xnortvm.schedules.cuda.epilogue import (
    Anchor,
    Epilogue,
    NotElementwiseError,
    read_anchor,
    read_epilogue,
)
from xnortvm.schedules.cuda.lanes import Lanes, lanes_of, write

#: Warps of a block, and elements that a thread reads from shared memory at once.
WARPS, VECTOR = 8, 4
THREADS = WARPS * b.WARP
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
        return self.columns * b.WARP

    @property
    def chunk(self) -> int:
        """Elements of the sum that are staged together."""
        return self.vectors * VECTOR

    @property
    def pitch(self) -> int:
        """Elements of a row in shared memory: an odd number of vectors."""
        return (self.vectors | 1) * VECTOR


def takes(anchor: Anchor | None) -> bool:
    """Whether the template computes a sum: no groups, and operands that are parameters."""
    problem = None if anchor is None else anchor.problem or anchor.floats
    if anchor is None or problem is None or len(anchor.operands) != 2:
        return False
    return problem.groups == 1


def tile_for(problem: Problem) -> Tile:
    """Return the tile that keeps a GPU busy and reads its operands least often."""
    columns = 4 if problem.outputs > 2 * b.WARP and not problem.packed else 2
    columns = min(columns, -(-problem.outputs // b.WARP))
    tiles_of_channels = -(-problem.outputs // (columns * b.WARP))

    def blocks(rows: int) -> int:
        return -(-problem.pixels // (rows * WARPS)) * tiles_of_channels

    rows = next((rows for rows in (8, 4, 2) if blocks(rows) >= ENOUGH_BLOCKS), 1)
    vectors = -(-problem.steps // VECTOR)
    chunks = -(-vectors // MOST_VECTORS[problem.packed])
    carry_save = problem.packed and vectors >= 2
    return Tile(rows, columns, -(-vectors // chunks), carry_save)


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
    anchor, epilogue = read_anchor(func), read_epilogue(func)
    problem = anchor.problem or anchor.floats
    if problem is None or not epilogue.outputs:
        raise NotElementwiseError("the sum is not a plain one")
    lanes = lanes_of(epilogue.outputs)
    if lanes.channels != problem.outputs:
        raise NotElementwiseError("the outputs have other channels than the sum")
    made = wanted or tile_for(problem)
    return b.kernel(func, _Template(problem, made, lanes, epilogue, anchor.operands).launch())


class _Template:
    def __init__(
        self,
        problem: Problem,
        made: Tile,
        lanes: Lanes,
        epilogue: Epilogue,
        operands: list[Any],
    ) -> None:
        self.problem, self.tile, self.lanes = problem, made, lanes
        self.epilogue, (self.image, self.weights) = epilogue, operands
        self.dtype = "uint32" if problem.packed else "float32"
        self.sum_dtype = "int32" if problem.packed else "float32"
        self.width = gcd(problem.words, VECTOR)  # of global loads: taps are not contiguous
        if problem.packed and problem.pad_value == -1 and problem.channels % b.WARP:
            self.width = 1  # words of padding differ
        self.bx, self.by, self.warp, self.lane = (
            tirx.Var(name, "int32") for name in ("bx", "by", "warp", "lane")
        )
        accumulators = made.rows * made.columns
        self.acc = b.registers("acc", (accumulators,), self.sum_dtype)
        self.ones = b.registers("ones", (accumulators,), "uint32")
        self.twos = b.registers("twos", (accumulators,), "uint32")
        self.pixel = b.registers("pixel", (made.rows * VECTOR,), self.dtype)
        self.weight = b.registers("weight", (made.columns * VECTOR,), self.dtype)
        self.mask = b.registers("mask", (made.columns * VECTOR,), self.dtype)
        self.places = b.shared("places", (made.pixels, 3), "int32")
        self.images = b.shared("images", (made.pixels, made.pitch), self.dtype)
        self.staged = b.shared("staged", (made.channels, made.pitch), self.dtype)
        self.masks = b.shared("masks", (made.channels, made.pitch), self.dtype)

    def launch(self) -> Any:
        """Return the grid of blocks."""
        made, problem = self.tile, self.problem
        grid = -(-problem.pixels // made.pixels), -(-self.lanes.count // made.channels)
        axes = [("blockIdx.x", grid[0], self.bx), ("blockIdx.y", grid[1], self.by)]
        axes += [("threadIdx.y", WARPS, self.warp), ("threadIdx.x", b.WARP, self.lane)]
        buffers = [self.acc, self.pixel, self.weight, self.places, self.images, self.staged]
        buffers += [self.ones, self.twos] if made.carry_save else []
        buffers += [self.mask, self.masks] if problem.masked else []
        chunks = -(-problem.steps // made.chunk)
        return b.launch(
            axes,
            buffers,
            self._start(),
            b.loop("chunk", chunks, self._chunk),
            self._count_rest() if made.carry_save else None,
            *(self._finish(row) for row in range(made.rows)),
        )

    # ---- before the sum

    def _start(self) -> Any:
        """Set the sums to 0, and find out where the windows of the tile's pixels begin."""
        sums = [self.acc, *([self.ones, self.twos] if self.tile.carry_save else [])]
        zeros = [
            b.store(buffer, tirx.const(0, str(buffer.dtype)), b.const(i))
            for buffer in sums
            for i in range(self.tile.rows * self.tile.columns)
        ]
        problem = self.problem
        row = tirx.Var("row", "int32")
        n, y, x = b.split_index(
            self.bx * b.const(self.tile.pixels) + row, (problem.images, *problem.map)
        )
        first_y = y * b.const(problem.strides[0]) - b.const(problem.padding[0])
        first_x = x * b.const(problem.strides[1]) - b.const(problem.padding[1])
        found = b.block(
            *(
                b.store(self.places, value, row, b.const(i))
                for i, value in enumerate((n, first_y, first_x))
            )
        )
        return b.block(
            *zeros,
            tirx.Bind(row, self.warp * b.const(b.WARP) + self.lane),
            b.when(row < b.const(self.tile.pixels), found),
            b.barrier(),
        )

    # ---- the sum

    def _chunk(self, chunk: Any) -> Any:
        body = [self._stage(self.tile.pixels, "m", self._stage_pixel(chunk))]
        body.append(self._stage(self.tile.channels, "o", self._stage_weight(chunk)))
        body.append(b.barrier())
        body.append(b.loop("vector", self.tile.vectors, self._vector))
        body.append(b.barrier())
        return b.block(*body)

    def _stage(self, rows: int, name: str, copy: Callable[[Any, Any], Any]) -> Any:
        """Return the loop in which the threads of a block copy vectors of rows."""
        per_row = self.tile.chunk // self.width
        count = rows * per_row

        def step(i: Any) -> Any:
            number = tirx.Var(f"{name}_vector", "int32")
            at = i * b.const(THREADS) + self.warp * b.const(b.WARP) + self.lane
            row = tirx.floordiv(number, b.const(per_row))
            place = tirx.floormod(number, b.const(per_row)) * b.const(self.width)
            inside = None if count % THREADS == 0 else number < b.const(count)
            return b.block(tirx.Bind(number, at), b.when(inside, copy(row, place)))

        return b.loop(f"{name}_step", -(-count // THREADS), step)

    def _at(self, chunk: Any, place: Any) -> tuple[Any, Any, Any, Any]:
        """Return (ky, kx, word) of a step of the sum, and whether there is one (None: always)."""
        problem = self.problem
        step = chunk * b.const(self.tile.chunk) + place
        tap = tirx.floordiv(step, b.const(problem.words))
        word = tirx.floormod(step, b.const(problem.words))
        ky = tirx.floordiv(tap, b.const(problem.kernel[1]))
        kx = tirx.floormod(tap, b.const(problem.kernel[1]))
        whole = problem.steps % self.tile.chunk == 0
        return ky, kx, word, None if whole else step < b.const(problem.steps)

    def _stage_pixel(self, chunk: Any) -> Callable[[Any, Any], Any]:
        problem, made = self.problem, self.tile

        def copy(row: Any, place: Any) -> Any:
            ky, kx, word, real = self._at(chunk, place)
            n, first_y, first_x = (b.load(self.places, row, b.const(i)) for i in range(3))
            y = first_y + ky * b.const(problem.dilation[0])
            x = first_x + kx * b.const(problem.dilation[1])
            at = (n, y, x, word) if problem.rank == 4 else (n, word)
            value = self._load(self.image, at)
            if any(problem.padding):
                inside = [y >= b.const(0), y < b.const(problem.height)]
                inside += [x >= b.const(0), x < b.const(problem.width)]
                outside = self._spread(problem.padding_word(word))
                value = tirx.if_then_else(tirx.all(*inside), value, outside)
            exists = [] if real is None else [real]
            if problem.pixels % made.pixels:
                number = self.bx * b.const(made.pixels) + row
                exists.append(number < b.const(problem.pixels))
            return self._put(self.images, row, place, self._or_zero(exists, value))

        return copy

    def _stage_weight(self, chunk: Any) -> Callable[[Any, Any], Any]:
        problem, made = self.problem, self.tile
        places = -(-self.lanes.count // made.channels) * made.channels

        def copy(row: Any, place: Any) -> Any:
            ky, kx, word, real = self._at(chunk, place)
            number = self.by * b.const(made.channels) + row
            channel, valid = self.lanes.channel(number, places)
            taps = (ky, kx) if problem.rank == 4 else ()
            exists = [each for each in (real, valid) if each is not None]
            value = self._or_zero(exists, self._load(self.weights, (channel, *taps, word)))
            put = self._put(self.staged, row, place, value)
            if not problem.masked:
                return put
            behind = word + b.const(problem.words)
            mask = self._or_zero(exists, self._load(self.weights, (channel, *taps, behind)))
            return b.block(put, self._put(self.masks, row, place, mask))

        return copy

    def _load(self, buffer: Any, at: tuple[Any, ...]) -> Any:
        return b.load(buffer, *at[:-1], self._run(at[-1]))

    def _put(self, buffer: Any, row: Any, place: Any, value: Any) -> Any:
        return b.store(buffer, value, row, self._run(place))

    def _run(self, first: Any) -> Any:
        return first if self.width == 1 else tirx.Ramp(first, b.const(1), self.width)

    def _spread(self, value: Any) -> Any:
        return value if self.width == 1 else tirx.Broadcast(value, self.width)

    def _or_zero(self, conditions: list[Any], value: Any) -> Any:
        if not conditions:
            return value
        zero = self._spread(tirx.const(0, self.dtype))
        return tirx.if_then_else(tirx.all(*conditions), value, zero)

    def _vector(self, vector: Any) -> Any:
        """Return one step of the inner loop: a vector of each pixel with one of each channel."""
        made = self.tile

        def read(into: Any, i: int, source: Any, row: Any) -> Any:
            place = tirx.Ramp(vector * b.const(VECTOR), b.const(1), VECTOR)
            own = tirx.Ramp(b.const(i * VECTOR), b.const(1), VECTOR)
            return b.store(into, b.load(source, row, place), own)

        body = []
        for j in range(made.columns):
            row = self.lane + b.const(j * b.WARP)
            body.append(read(self.weight, j, self.staged, row))
            if self.problem.masked:
                body.append(read(self.mask, j, self.masks, row))
        for i in range(made.rows):
            row = self.warp * b.const(made.rows) + b.const(i)
            body.append(read(self.pixel, i, self.images, row))
        body += [self._combine(i, j) for i in range(made.rows) for j in range(made.columns)]
        return b.block(*body)

    def _combine(self, i: int, j: int) -> Any:
        at = b.const(i * self.tile.columns + j)
        now = b.load(self.acc, at)
        pairs = [
            (
                b.load(self.pixel, b.const(i * VECTOR + element)),
                b.load(self.weight, b.const(j * VECTOR + element)),
            )
            for element in range(VECTOR)
        ]
        if not self.problem.packed:
            for pixel, weight in pairs:
                now = now + pixel * weight
            return b.store(self.acc, now, at)
        bits = [pixel ^ weight for pixel, weight in pairs]
        if self.problem.masked:
            bits = [
                word & b.load(self.mask, b.const(j * VECTOR + element))
                for element, word in enumerate(bits)
            ]
        if not self.tile.carry_save:
            for word in bits:
                now = now + tirx.popcount(word).astype("int32")
            return b.store(self.acc, now, at)
        return self._carry_save(bits, at)

    def _carry_save(self, bits: list[Any], at: Any) -> Any:
        """Add four words to ones and twos, and count the fours that are carried out."""
        statements: list[Any] = []

        def bind(value: Any, name: str) -> Any:
            var = tirx.Var(name, "uint32")
            statements.append(tirx.Bind(var, value))
            return var

        def add(x: Any, y: Any, z: Any) -> tuple[Any, Any]:
            """Full adder of each bit: sum and carry."""
            return x ^ y ^ z, (x & y) | (z & (x ^ y))

        w0, w1, w2, w3 = (bind(word, f"word{i}") for i, word in enumerate(bits))
        old_ones, old_twos = bind(b.load(self.ones, at), "a"), bind(b.load(self.twos, at), "b")
        ones, two_a = (bind(v, n) for v, n in zip(add(old_ones, w0, w1), ("s", "t"), strict=True))
        ones, two_b = (bind(v, n) for v, n in zip(add(ones, w2, w3), ("u", "v"), strict=True))
        twos, fours = (
            bind(v, n) for v, n in zip(add(old_twos, two_a, two_b), ("w", "f"), strict=True)
        )
        count = tirx.popcount(fours).astype("int32") * b.const(4)
        statements += [
            b.store(self.ones, ones, at),
            b.store(self.twos, twos, at),
            b.store(self.acc, b.load(self.acc, at) + count, at),
        ]
        return b.block(*statements)

    def _count_rest(self) -> Any:
        """Count the ones and twos that are left."""
        rest = []
        for i in range(self.tile.rows * self.tile.columns):
            at = b.const(i)
            ones, twos = (
                tirx.popcount(b.load(buffer, at)).astype("int32")
                for buffer in (self.ones, self.twos)
            )
            rest.append(b.store(self.acc, b.load(self.acc, at) + ones + twos * b.const(2), at))
        return b.block(*rest)

    # ---- behind the sum

    def _finish(self, i: int) -> Any:
        """Return what becomes of the sums of one pixel."""
        problem, made = self.problem, self.tile
        number, n, y, x = (tirx.Var(f"{name}{i}", "int32") for name in ("pixel", "n", "y", "x"))
        row = self.warp * b.const(made.rows) + b.const(i)
        values = b.split_index(number, (problem.images, *problem.map))
        body = [tirx.Bind(number, self.bx * b.const(made.pixels) + row)]
        body += [tirx.Bind(var, value) for var, value in zip((n, y, x), values, strict=True)]
        exists = None if problem.pixels % made.pixels == 0 else number < b.const(problem.pixels)
        total = -(-self.lanes.count // made.channels) * made.channels
        for j in range(made.columns):
            first = self.by * b.const(made.channels) + b.const(j * b.WARP)
            place = tirx.Var(f"place{i}_{j}", "int32")
            channel, valid = self.lanes.channel(place, total)
            both = [each for each in (exists, valid) if each is not None]
            # A whole warp has no word where its first place is behind the last one.
            word = [] if exists is None else [exists]
            word += [] if total == self.lanes.count else [first < b.const(self.lanes.count)]
            body.append(tirx.Bind(place, first + self.lane))
            acc = b.load(self.acc, b.const(i * made.columns + j))
            body += [
                write(
                    output,
                    acc,
                    (n, y, x, channel),
                    place,
                    tirx.all(*both) if both else None,
                    tirx.all(*word) if word else None,
                )
                for output in self.epilogue.outputs
            ]
        return b.block(*body)

# SPDX-License-Identifier: Apache-2.0
"""K3: direct convolutions on Hopper's warpgroup tensor cores, without gathering windows.

A patch of the input lies once in shared memory, as planes of 16 bytes a position (`patch`). In the
layout without swizzle the 64 rows of an operand are 64 consecutive positions, so **each tap is the
same patch at another start**, and the leading offset of a descriptor joins any two chunks of 16
bytes, also of different taps. Positions that are no output (the margins of images) are computed and
not stored: 3 % at 56×56, 13 % at 14×14, 23 % at 7×7.

The skeleton, outside in::

    block, persistent: its weights in shared memory, once
      warpgroup, on its own: every other tile of 64 positions
        all wgmma of a tile, asynchronous
        meanwhile: the patch of its next tile is copied, and the bits of each window are counted
        epilogue, while other warpgroups multiply

``differing = |a| + |w| − 2·|a and w|`` as in `wgmma_gemm`; a pixel's bits are counted once here,
|a| is their sum over the window, and |w| is in the table of corrections (`WeightLayout.base`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from xnortvm._tvm import tirx
from xnortvm.schedules.cuda import emit as e
from xnortvm.schedules.cuda.epilogue import Anchor, Epilogue, NotElementwiseError, base_of
from xnortvm.schedules.cuda.gemm import ceil
from xnortvm.schedules.cuda.layers import packed_product_of, read_packed_layer
from xnortvm.schedules.cuda.patch import CHUNK
from xnortvm.schedules.cuda.patch_plan import (
    CHUNK_BYTES,
    ROWS,
    THREADS,
    WARPGROUP,
    WARPGROUPS,
    Plan,
    Tile,
    plan_of,
)
from xnortvm.schedules.cuda.store import Columns, Sums, store_sums
from xnortvm.schedules.cuda.weights import WeightLayout, taking

ARCH = "sm_90a"
#: Output pixels and channels below which most of a tile would be empty.
LEAST_ROWS, LEAST_COLUMNS = 32, 32
#: Positions for each output pixel from which gathering windows is the smaller waste.
MOST_WASTE = 2


def takes(anchor: Anchor | None) -> bool:
    """Return whether an anchor is a convolution that the template is good for."""
    gemm = packed_product_of(anchor)
    if gemm is None or gemm.rows < LEAST_ROWS or gemm.columns < LEAST_COLUMNS:
        return False
    try:
        patch = plan_of(gemm.problem).patch
    except NotElementwiseError:
        return False
    least = ceil(gemm.words, 2 * CHUNK)
    return patch.positions * patch.steps <= MOST_WASTE * gemm.rows * least


def make(func: Any, arch: str, tile: Tile | None = None, *, blocks: int | None = None) -> Any:
    """Return the kernel of a packed convolution.

    Parameters
    ----------
    func : tirx.PrimFunc
        As `FuseTIR` leaves it, with 32-bit indices.
    arch : str
        ``"sm_90a"``.
    tile : optional
        Another than the shape asks for.
    blocks : optional
        How many blocks share the tiles, in place of those that fill the chip.

    Returns
    -------
    tirx.PrimFunc
        Its weights are laid out as the attribute `weights.PREPARED` says.

    Raises
    ------
    NotElementwiseError
        When the template does not compute this function.
    """
    if arch != ARCH:
        raise NotElementwiseError(f"{arch} has no wgmma of bits")
    gemm, epilogue, activations, number = read_packed_layer(func)
    plan = plan_of(gemm.problem, tile)
    layout = WeightLayout(
        number,
        gemm.problem.groups,
        plan.column_tiles * plan.tile.columns,
        len(plan.patch.order),
        chunk=CHUNK,
        tile=plan.tile.columns,
        base=base_of(func),
        order=plan.patch.order,
    )
    params, prepared, _, attrs = taking(func, layout)
    grid = blocks or plan.blocks, plan.column_tiles, layout.groups
    kernel = _Kernel(plan, grid[0], activations, prepared, epilogue)
    return e.build(params, attrs, e.Launch(grid, THREADS, kernel.emit))


def within(value: Any, limit: int) -> Any:
    """Return 1 where ``0 ≤ value < limit``, else 0: without a branch."""
    return e.i32(e.u32(value) < e.u32(limit))


@dataclass
class _Kernel:
    plan: Plan
    blocks: int
    activations: Any
    weights: Any
    epilogue: Epilogue

    def emit(self, blocks: list[Any], thread: Any) -> None:
        """Emit the kernel."""
        with e.resident(self.plan.tile.blocks):
            self._emit(blocks, thread)

    def _emit(self, blocks: list[Any], thread: Any) -> None:
        plan, patch = self.plan, self.plan.patch
        block, self.column_tile, block_group = blocks
        self.patch, self.made = patch, patch.problem
        self.group = block_group if self.made.groups > 1 else 0
        self.warpgroup = e.let("warpgroup", tirx.floordiv(thread, WARPGROUP))
        self.thread = e.let("own", tirx.floormod(thread, WARPGROUP))
        self.lane = e.let("lane", tirx.floormod(thread, 32))
        self.shared = e.Shared(plan.shared, align=128)
        own = self.warpgroup * plan.own_bytes + plan.weight_bytes
        self.patches = e.let("patches", own)
        self.found = e.let("found", self.shared.address(own + 2 * patch.patch_bytes))
        self.windows = self.found + e.u32(len(patch.tables) * patch.length * 4)
        self.sums = e.registers("sums", plan.tile.columns // 2)
        self._copy_weights(thread)
        first = e.let("first", block * WARPGROUPS + self.warpgroup)
        self._copy_patch(0, first)
        e.ptx("cp.async.commit_group")
        e.ptx("cp.async.wait_group", 0)
        e.ptx("fence.proxy.async.shared::cta")
        e.barrier()  # the weights are there; from here on each warpgroup is on its own
        step = self.blocks * WARPGROUPS
        with e.loop("turn", ceil(plan.tiles, step)) as turn:
            tile = e.let("tile", first + turn * step)
            with e.when(tile < plan.tiles):
                self._tile(tile, tirx.floormod(turn, 2), tile + step)

    def _copy_weights(self, thread: Any) -> None:
        chunks = self.plan.weight_bytes // CHUNK_BYTES
        number = self.group * self.plan.column_tiles + self.column_tile
        start = e.let("weights", number * (chunks * CHUNK))
        with e.loop("i", ceil(chunks, THREADS)) as i:
            chunk = e.let("chunk", i * THREADS + thread)
            with e.when(chunk < chunks if chunks % THREADS else True):
                source = e.address(e.at(self.weights, start + chunk * CHUNK))
                to = self.shared.address(chunk * CHUNK_BYTES)
                e.ptx("cp.async.cg.shared.global", to, source, CHUNK_BYTES, e.u32(CHUNK_BYTES))

    def _copy_patch(self, slot: Any, tile: Any) -> None:
        """Copy the patch of a tile, which may lie behind the last; zeros outside the images."""
        patch, made = self.patch, self.made
        top, left, _, _ = made.padding
        lanes, step = len(patch.offsets), patch.offsets.step
        start = e.let("to_patch", self.shared.address(self.patches + slot * patch.patch_bytes))
        with self._share("copied", lanes * patch.length) as number:
            local = e.let("local", tirx.floordiv(number, lanes))
            lane = e.let("plane", tirx.floormod(number, lanes))
            image, row, column = self._place(tile * ROWS + local)
            y0 = e.let("y", row * made.strides[0] - top)
            x0 = e.let("x", column * made.strides[1] - left)
            first = e.let("pixel", (image * made.height + y0) * made.width + x0)
            for n, stream in enumerate(patch.streams):
                exists = within(image, made.images) & within(y0 + stream, made.height)
                plane = lane + n * lanes
                to = e.let("to", start + e.u32((plane * patch.length + local) * CHUNK_BYTES))
                for piece in range(0, CHUNK, patch.unit):
                    right = tirx.floordiv(lane * step + piece, made.words)
                    word = tirx.floormod(lane * step + piece, made.words)
                    inside = exists & within(x0 + right, made.width)
                    pixel = first + stream * made.width + right
                    source = (pixel * made.groups + self.group) * made.words + word
                    self._copy(to + e.u32(piece * 4), source, inside)

    def _copy(self, to: Any, source: Any, inside: Any) -> None:
        """Copy some words of a pixel, or zeros where `inside` is 0."""
        size = self.patch.unit * 4
        cache = "cg" if size == CHUNK_BYTES else "ca"
        pointer = e.address(e.at(self.activations, e.let("source", source * inside)))
        e.ptx(f"cp.async.{cache}.shared.global", to, pointer, size, e.u32(inside * size))

    @contextmanager
    def _share(self, name: str, total: int) -> Iterator[Any]:
        """Let each thread of this warpgroup execute what is emitted for its own numbers."""
        with e.unroll("i", ceil(total, WARPGROUP)) as i:
            number = e.let(name, i * WARPGROUP + self.thread)
            with e.when(number < total if total % WARPGROUP else True):
                yield number

    def _place(self, position: Any) -> tuple[Any, ...]:
        """Return image, row and column of a position."""
        # Numbers without a sign take two instructions to divide. They lie in registers, where TVM
        # does not see remainders: its rules for those make more divisions of them.
        place = e.registers("place", 3)
        e.store(place, e.u32(position), 2)
        for i, size in enumerate((self.patch.area, self.patch.width)):
            rest = e.load(place, 2)
            e.store(place, tirx.floordiv(rest, e.u32(size)), i)
            e.store(place, rest - e.load(place, i) * e.u32(size), 2)
        names = "image", "row", "column"
        return tuple(e.let(name, e.i32(e.load(place, i))) for i, name in enumerate(names))

    def _tile(self, tile: Any, slot: Any, following: Any) -> None:
        """Compute one tile whose patch has been copied."""
        e.ptx("cp.async.wait_group", 0)
        e.ptx("fence.proxy.async.shared::cta")
        self._meet()
        with e.unroll("i", self.plan.tile.columns // 2) as i:
            e.store(self.sums, e.u32(0), i)
        start = e.let("patch", self.patches + slot * self.patch.patch_bytes)
        self._multiply(start)
        self._copy_patch(1 - slot, following)  # the last tile copies zeros
        e.ptx("cp.async.commit_group")
        self._count(start)
        self._meet()
        self._count_windows()
        self._meet()
        e.ptx("wgmma.wait_group.sync.aligned", 0)
        self._finish(tile)

    def _meet(self) -> None:
        """Wait for the threads of this warpgroup."""
        # Constant numbers: with computed ones a block takes all 16 barriers.
        e.when_else(
            self.warpgroup.equal(0),
            lambda: e.ptx("bar.sync", e.u32(1), e.u32(WARPGROUP)),
            lambda: e.ptx("bar.sync", e.u32(2), e.u32(WARPGROUP)),
        )

    def _multiply(self, start: Any) -> None:
        """Issue all products of a tile."""
        patch, width = self.patch, self.plan.tile.columns
        rows = self._descriptor("rows", start, 0)
        columns = self._descriptor("columns", 0, width)
        opcode = f"wgmma.mma_async.sync.aligned.m64n{width}k256.s32.b1.b1.and.popc"
        starts = [patch.start(chunk) for chunk in patch.chunks]
        starts += [starts[-1] + 1] * (len(starts) % 2)  # whose weights are 0
        e.ptx("wgmma.fence.sync.aligned")
        for step in range(patch.steps):
            first, second = starts[2 * step : 2 * step + 2]
            sums = [self.sums[i] for i in range(width // 2)]
            a = rows + tirx.const((second - first << 16) + first, "uint64")
            b = columns + tirx.const(step * 2 * width, "uint64")
            e.ptx(opcode, *sums, a, b, True)
        e.ptx("wgmma.commit_group.sync.aligned")

    def _descriptor(self, name: str, offset: Any, lead: int) -> Any:
        """Return the descriptor of a matrix without swizzle, 128 bytes from 8 rows to the next."""
        place = (self.shared.address(offset) & e.u32(0x3FFFF)) >> e.u32(4)
        mode = (128 >> 4) << 32 | lead << 16
        return e.let(name, tirx.Cast("uint64", place) + tirx.const(mode, "uint64"))

    def _count(self, start: Any) -> None:
        """Count the bits of each position of the patch, for each of the tables."""
        patch = self.patch
        words = e.registers("words", CHUNK)
        totals = e.registers("totals", len(patch.tables))
        with self._share("position", patch.length) as position:
            for table in range(len(patch.tables)):
                e.store(totals, e.u32(0), table)
            for plane in range(patch.planes):
                place = start + (position + plane * patch.length) * CHUNK_BYTES
                lanes = [words[n] for n in range(CHUNK)]
                e.ptx("ld.shared.v4.u32", *lanes, self.shared.address(place))
                for table, parts in enumerate(patch.tables):
                    for part, read in parts:
                        if part == plane:
                            own = [n for n in range(CHUNK) if read[n]]
                            bits = (tirx.popcount(e.load(words, n)) for n in own)
                            e.store(totals, sum(bits, e.load(totals, table)), table)
            for table in range(len(patch.tables)):
                to = self.found + e.u32((position + table * patch.length) * 4)
                e.ptx("st.shared.u32", to, e.load(totals, table))

    def _count_windows(self) -> None:
        """Add up the bits of each window."""
        patch = self.patch
        part, total = e.registers("part", 1), e.registers("total", 1)
        with self._share("window", ROWS) as position:
            e.store(total, e.u32(0), 0)
            for table, shift in patch.counts:
                at = self.found + e.u32((position + table * patch.length + shift) * 4)
                e.ptx("ld.shared.u32", part[0], at)
                e.store(total, e.load(total, 0) + e.load(part, 0), 0)
            e.ptx("st.shared.u32", self.windows + e.u32(position * 4), e.load(total, 0))

    def _finish(self, tile: Any) -> None:
        made, width = self.made, self.plan.tile.columns
        warp = tirx.floordiv(self.thread, 32)
        local = e.let("local_row", warp * 16 + tirx.floordiv(self.lane, 4))
        bits = e.registers("activation_bits", 2)
        for r in range(2):
            e.ptx("ld.shared.u32", bits[r], self.windows + e.u32((local + r * 8) * 4))
        first = e.let("first_column", self.column_tile * width)
        columns = Columns.of(made, self.lane, self.group, first, width, width)

        def pixel(r: Any) -> tuple[tuple[Any, ...], Any]:
            place = self._place(tile * ROWS + local + r * 8)
            ends = [made.images - 1, *(extent - 1 for extent in made.map)]
            near = zip(place, ends, strict=True)
            exists = tirx.all(*(value <= end for value, end in zip(place, ends, strict=True)))
            return tuple(tirx.min(value, end) for value, end in near), exists

        def count(r: Any, eight: Any, half: Any) -> Any:
            # Without |w|, which is in the base. As half of an even number, so that the CUDA
            # compiler finds twice of it in one instruction.
            value = e.i32(e.load(self.sums, eight * 4 + r * 2 + half))
            return tirx.shift_right(e.i32(e.load(bits, r)) * 2 - value * 4, e.i32(1))

        store_sums(self.epilogue, columns, Sums(2, pixel, count))

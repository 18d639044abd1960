# SPDX-License-Identifier: Apache-2.0
"""K4: packed convolutions and dense layers on Hopper's warpgroup tensor cores, ``wgmma`` of bits.

The skeleton, outside in::

    block, persistent: a tile of columns (channels) of one group, its weights in shared memory, once
      warpgroup: every other tile of 64 rows (output pixels)
        1024 bits of K at a time: four wgmma of 256 bits, 64 rows × all columns, asynchronous
        meanwhile: windows are copied, stages ahead, and the bits of the activations are counted
        epilogue in registers, as in `mma`, while the other warpgroup multiplies

Rows of a stage are 128 bytes, so its layout is wgmma's 128B swizzle, and a step of 256 bits is a
descriptor 32 bytes on. The weights are laid out like that at compile time: a stage of them is one
bulk copy, and products of the first tile start when their own stage is there.

``wgmma`` multiplies bits by AND alone: differing = |a| + |w| − 2·|a and w| (see `mma`); |a| is
counted from shared memory, since no register ever holds an operand.

A warpgroup keeps `Tile.slots` stages of activations. Order of one stage: its copies have arrived
and are made visible to the asynchronous proxy; barrier; its products are issued; the stage
``slots − 2`` behind is copied, of this tile or of the next, to the slot whose products were waited
for before the barrier; bits are counted; all products but this stage's are waited for. So the first
stages of the next tile arrive during the epilogue.

Tensor cores are given to one warpgroup at a time (`Tile.ordered`): if both multiplied at once, both
would be done at once, and nothing would multiply during their epilogues.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xnortvm._tvm import tirx
from xnortvm.schedules.cuda import emit as e
from xnortvm.schedules.cuda.bulk import Arrivals
from xnortvm.schedules.cuda.epilogue import Anchor, Epilogue, NotElementwiseError
from xnortvm.schedules.cuda.gemm import Gemm, ceil
from xnortvm.schedules.cuda.layers import packed_product_of, read_packed_layer
from xnortvm.schedules.cuda.staged import CHUNK, Mover, Windows
from xnortvm.schedules.cuda.store import Columns, Sums, pixel_of_row, store_sums
from xnortvm.schedules.cuda.weights import WeightLayout, taking
from xnortvm.schedules.cuda.wgmma_tile import (
    ROWS,
    STEP,
    WARPGROUP,
    WARPGROUPS,
    WORDS,
    Tile,
    tile_for,
    tiles,
)

ARCH = "sm_90a"

#: Rows and columns below which most of a tile would be empty.
LEAST_ROWS, LEAST_COLUMNS = 32, 32


def takes(anchor: Anchor | None) -> bool:
    """Return whether an anchor is a product that the template is good for."""
    gemm = packed_product_of(anchor)
    if gemm is None or not tiles(gemm):
        return False
    return gemm.rows >= LEAST_ROWS and gemm.columns >= LEAST_COLUMNS


def make(func: Any, arch: str, tile: Tile | None = None, blocks: int | None = None) -> Any:
    """Return the kernel of a packed convolution or dense layer.

    Parameters
    ----------
    func : tirx.PrimFunc
        As `FuseTIR` leaves it, with 32-bit indices.
    arch : str
        ``"sm_90a"``.
    tile : optional
        Another than the shape asks for.
    blocks : optional
        How many blocks share the rows, in place of those that fill the chip.

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
    tile = tile or tile_for(gemm)
    if not tile.fits(gemm):
        raise NotElementwiseError(f"{tile} takes more than a multiprocessor has")
    layout = WeightLayout(
        number,
        gemm.problem.groups,
        ceil(gemm.columns, tile.columns) * tile.columns,
        ceil(gemm.words, WORDS) * WORDS,
        chunk=WORDS,
        tile=tile.columns,
        swizzled=True,
        counts=True,
    )
    params, prepared, counts, attrs = taking(func, layout)
    grid = blocks or tile.shares(gemm), layout.outputs // tile.columns, gemm.problem.groups
    kernel = _Kernel(gemm, tile, grid[0], layout, activations, prepared, counts, epilogue)
    return e.build(params, attrs, e.Launch(grid, WARPGROUPS * WARPGROUP, kernel.emit))


@dataclass
class _Kernel:
    gemm: Gemm
    tile: Tile
    blocks: int
    layout: WeightLayout
    activations: Any
    weights: Any
    counts: Any
    epilogue: Epilogue

    def emit(self, blocks: list[Any], thread: Any) -> None:
        """Emit the kernel."""
        with e.resident(self.tile.blocks):
            self._emit(blocks, thread)

    def _emit(self, blocks: list[Any], thread: Any) -> None:
        tile, gemm = self.tile, self.gemm
        block, block_column, block_group = blocks
        self.group = block_group if gemm.problem.groups > 1 else 0
        self.first_column = e.let("first_column", block_column * tile.columns)
        self.warpgroup = e.let("warpgroup", tirx.floordiv(thread, WARPGROUP))
        self.thread = e.let("own", tirx.floormod(thread, WARPGROUP))
        self.lane = e.let("lane", tirx.floormod(thread, 32))
        self.stages = ceil(gemm.words, WORDS)
        self.shared = e.Shared(tile.shared(gemm), align=1024)
        self._start_weights(thread)
        ring = self.stages * tile.weight_stage + self.warpgroup * (tile.slots * tile.slot)
        self.ring = e.let("ring", ring)
        self.mover = Mover(self.shared)
        self.windows = Windows(
            gemm, tile.stage, WARPGROUP, self.mover, self.activations, self.thread, self.group
        )
        self.sums = e.registers("sums", tile.columns // 2)
        self.bits = e.registers("bits", 2)
        self.piece = e.registers("piece", CHUNK)
        self.slot = e.registers("slot", 1, "int32")  # of the ring, that is multiplied next
        self.cursor = e.registers("cursor", 2, "int32")  # the tile and stage that is copied next
        self.tiles = ceil(gemm.rows, ROWS)
        self.step = self.blocks * WARPGROUPS
        first = e.let("first", block * WARPGROUPS + self.warpgroup)
        self._start_windows(first)
        e.barrier()  # barriers of the weights are there; from here on warpgroups are on their own
        with e.loop("turn", ceil(self.tiles, self.step)) as turn:
            number = e.let("tile", first + turn * self.step)
            with e.when(number < self.tiles):
                self._multiply(turn, number)
                self._finish(number)

    def _start_weights(self, thread: Any) -> None:
        tile, stages = self.tile, self.stages
        end = stages * tile.weight_stage + WARPGROUPS * tile.slots * tile.slot
        self.arrivals = Arrivals(self.shared, end, stages)
        column_tiles = self.layout.outputs // tile.columns
        number = self.group * column_tiles + tirx.floordiv(self.first_column, tile.columns)
        with e.when(thread.equal(0)):
            source = number * (stages * tile.weight_stage // 4)
            self.arrivals.start(self.weights, source, tile.weight_stage, 0)

    def _start_windows(self, first: Any) -> None:
        e.store(self.slot, e.i32(0), 0)
        e.store(self.cursor, first, 0)
        e.store(self.cursor, e.i32(0), 1)
        self.windows.set_rows(first * ROWS)
        with e.loop("ahead", self.tile.slots - 2) as slot:
            self._copy(slot)

    def _copy(self, slot: Any) -> None:
        """Copy the next stage, if there is one, of this tile or another."""
        # Masks tell TVM the range, which saves instructions when it divides.
        number = e.let("number", e.load(self.cursor, 0) & _below(self.tiles + self.step))
        k = e.let("copied", e.load(self.cursor, 1) & _below(self.stages))
        with e.when(number < self.tiles):
            to = e.let("to", self._place(slot))
            self.windows.copy(tirx.floordiv(to, 4), k)
            e.store(self.cursor, k + 1, 1)
            with e.when((k + 1).equal(self.stages)):
                following = e.let("following", number + self.step)
                e.store(self.cursor, following, 0)
                e.store(self.cursor, e.i32(0), 1)
                self.windows.set_rows(following * ROWS)
        self.mover.commit()

    def _place(self, slot: Any) -> Any:
        """Return where a slot of the ring starts."""
        return self.ring + slot * self.tile.slot

    def _behind(self, slot: Any, count: int) -> Any:
        """Return the slot of the ring so many behind another."""
        slots, following = self.tile.slots, slot + count
        return tirx.Select(following >= slots, following - slots, following)

    def _multiply(self, turn: Any, number: Any) -> None:
        """Multiply a tile of rows."""
        e.store(self.bits, e.u32(0), 0)
        self._take_turn(turn)
        full, rest = divmod(self.gemm.words, WORDS)
        if full:
            with e.loop("k", full) as k:
                self._stage(turn, k, WORDS // STEP, number, last=not rest)
        if rest:
            self._stage(turn, full, ceil(rest, STEP), number, last=True)
        e.ptx("wgmma.wait_group.sync.aligned", 0)

    def _stage(self, turn: Any, k: Any, steps: int, number: Any, *, last: bool) -> None:
        """Multiply one stage and copy another."""
        columns = self.tile.columns
        self.mover.wait(self.tile.slots - 3)
        e.ptx("fence.proxy.async.shared::cta")
        self._meet()
        with e.when(turn.equal(0)):
            self.arrivals.wait(k)
        slot = e.let("slot", e.load(self.slot, 0))
        start = e.let("start", self._place(slot))
        a = self._descriptor("a", start)
        b = self._descriptor("b", k * self.tile.weight_stage)
        e.ptx("wgmma.fence.sync.aligned")
        opcode = f"wgmma.mma_async.sync.aligned.m64n{columns}k256.s32.b1.b1.and.popc"
        for step in range(steps):
            on = tirx.const(step * STEP * 4 >> 4, "uint64")
            sums = [self.sums[i] for i in range(columns // 2)]
            keep = k > 0 if step == 0 else True  # the first product of a tile forgets the last
            e.ptx(opcode, *sums, a + on, b + on, keep)
        e.ptx("wgmma.commit_group.sync.aligned")
        if last:
            with e.when(k == self.stages - 1):
                self._give_turn(number)
        e.store(self.slot, self._behind(slot, 1), 0)
        self._copy(self._behind(slot, self.tile.slots - 2))
        self._count(start)
        e.ptx("wgmma.wait_group.sync.aligned", 1)

    def _descriptor(self, name: str, offset: Any) -> Any:
        """Return the descriptor of a matrix: 128B swizzle, 1024 bytes from 8 rows to the next."""
        place = (self.shared.address(offset) & e.u32(0x3FFFF)) >> e.u32(4)
        mode = 1 << 62 | (1024 >> 4) << 32 | 1 << 16
        return e.let(name, tirx.Cast("uint64", place) + tirx.const(mode, "uint64"))

    def _meet(self) -> None:
        """Wait for the threads of this warpgroup."""
        # Constant numbers: with computed ones a block takes all 16 barriers.
        self._each("bar.sync", (1, 2), WARPGROUP)

    def _each(self, opcode: str, barriers: tuple[int, int], threads: int) -> None:
        """Use a barrier of each warpgroup's own."""
        first, second = (
            lambda number=number: e.ptx(opcode, e.u32(number), e.u32(threads))  # type: ignore[misc]
            for number in barriers
        )
        e.when_else(self.warpgroup.equal(0), first, second)

    def _take_turn(self, turn: Any) -> None:
        """Wait until the other warpgroup has issued its products."""
        if self.tile.ordered:
            with e.when(tirx.any(turn > 0, self.warpgroup > 0)):
                self._each("bar.sync", (3, 4), WARPGROUPS * WARPGROUP)

    def _give_turn(self, number: Any) -> None:
        """Let the other warpgroup multiply its next tile, if it has one."""
        if self.tile.ordered:
            others = number + tirx.Select(self.warpgroup.equal(0), 1, self.step - 1)
            with e.when(others < self.tiles):
                self._each("bar.arrive", (4, 3), WARPGROUPS * WARPGROUP)

    def _count(self, start: Any) -> None:
        """Add the bits of half a row of this stage to what this thread has counted."""
        row, half = tirx.floordiv(self.thread, 2), tirx.floormod(self.thread, 2)
        halved = WORDS // CHUNK // 2
        with e.unroll("c", halved) as c:
            place = start + self.tile.stage.place(row, half * halved + c) * 4
            lanes = [self.piece[i] for i in range(CHUNK)]
            e.ptx("ld.shared.v4.u32", *lanes, self.shared.address(place))
            found = [tirx.popcount(e.load(self.piece, i)) for i in range(CHUNK)]
            total = found[0] + found[1] + found[2] + found[3]
            e.store(self.bits, e.load(self.bits, 0) + total, 0)

    def _finish(self, number: Any) -> None:
        gemm, tile = self.gemm, self.tile
        columns = Columns.of(
            gemm.problem, self.lane, self.group, self.first_column, tile.columns, tile.columns
        )
        activation_bits = e.registers("activation_bits", 2)
        in_warp = e.let("in_warp", tirx.floordiv(self.lane, 4))
        e.shuffle_xor(self.bits, 0, 1, 1)  # each counted half a row
        e.store(self.bits, e.load(self.bits, 0) + e.load(self.bits, 1), 0)
        for r in range(2):
            e.shuffle(self.bits, 0, 1, in_warp * 2 + r * 16)
            e.store(activation_bits, e.load(self.bits, 1), r)
        first = self.group * self.layout.outputs

        def count(r: Any, eight: Any, half: Any) -> Any:
            value = e.i32(e.load(self.sums, eight * 4 + r * 2 + half))
            return e.i32(e.load(activation_bits, r)) - value * 2

        exact = gemm.rows % ROWS == 0
        row = e.let("row", number * ROWS + tirx.floordiv(self.thread, 32) * 16 + in_warp)

        def pixel(r: Any) -> tuple[tuple[Any, ...], Any]:
            return pixel_of_row(gemm.problem, row + r * 8, exact)

        store_sums(self.epilogue, columns, Sums(2, pixel, count, (self.counts, first)))


def _below(limit: int) -> int:
    """Return the mask of the bits that numbers below a limit have."""
    return (1 << (limit - 1).bit_length()) - 1

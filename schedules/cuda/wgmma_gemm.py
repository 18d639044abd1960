# SPDX-License-Identifier: Apache-2.0
"""K4: packed convolutions and dense layers on Hopper's warpgroup tensor cores, ``wgmma`` of bits.

The skeleton, outside in::

    block: tile of rows (output pixels) × tile of columns (channels), one group
      1024 bits of K at a time, `slots` of them in shared memory
        warpgroup: 64 rows × all columns, four wgmma of 256 bits, asynchronous
        meanwhile: copies two stages ahead, and the bits of the activations are counted
      epilogue in registers, as in `mma`

Rows of a stage are 128 bytes, so its layout is wgmma's 128B swizzle, and a step of 256 bits is a
descriptor 32 bytes on. ``wgmma`` multiplies bits by AND alone: differing = |a| + |w| − 2·|a and w|
(see `mma`); |a| is counted from shared memory, since no register ever holds an operand.

Order of one stage: its copies have arrived and are made visible to the asynchronous proxy; barrier;
its products are issued; the stage after next is copied to the slot whose products were waited for
before the barrier; bits are counted; all products but the last stage's are waited for.

Two blocks share a multiprocessor: one's epilogue overlaps the other's products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from xnortvm._tvm import tirx
from xnortvm.schedules.cuda import emit as e
from xnortvm.schedules.cuda.epilogue import (
    Anchor,
    Epilogue,
    NotElementwiseError,
    read_anchor,
    read_epilogue,
)
from xnortvm.schedules.cuda.gemm import Gemm, ceil, check_packed, operands
from xnortvm.schedules.cuda.staged import CHUNK, Copies, Stage
from xnortvm.schedules.cuda.store import Columns, Sums, pixel_of_row, store_sums
from xnortvm.schedules.cuda.weights import WeightLayout, taking

ARCH = "sm_90a"
WARPGROUP = 128
#: Rows of one wgmma.
ROWS = 64
#: Words of K of a stage: rows of 128 bytes.
WORDS = 32
#: Words of K of one wgmma: 256 bits.
STEP = 8
#: Words of shared memory that a thread reads of a row when it counts bits.
HALF = WORDS // 2


class Tile(NamedTuple):
    """What a block computes: 64 rows for each warpgroup, so many columns, slots for stages."""

    warpgroups: int
    columns: int
    slots: int

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return self.warpgroups * ROWS

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.warpgroups * WARPGROUP

    @property
    def stage(self) -> Stage:
        """One stage of K."""
        return Stage(self.rows, self.columns, WORDS)

    @property
    def shared(self) -> int:
        """Bytes of shared memory: stages, and two partial counts for each row."""
        return self.stage.size * 4 * self.slots + self.rows * 8


#: Tiles from the largest: the first that fills the chip is taken, or the last. Two of them fit the
#: 227 KiB of a multiprocessor.
TILES = (Tile(2, 128, 3), Tile(2, 64, 4), Tile(1, 64, 4), Tile(1, 32, 4))

#: Blocks for each of the 132 multiprocessors of an H100 or H200.
ENOUGH_BLOCKS = 132

#: Rows and columns below which most of a tile would be empty.
LEAST_ROWS, LEAST_COLUMNS = 32, 32


def tile_for(gemm: Gemm) -> Tile:
    """Return the largest tile that wastes few columns and gives every multiprocessor work."""
    for tile in TILES:
        blocks = ceil(gemm.rows, tile.rows) * ceil(gemm.columns, tile.columns)
        wasted = ceil(gemm.columns, tile.columns) * tile.columns - gemm.columns
        if blocks * gemm.problem.groups >= ENOUGH_BLOCKS and wasted * 4 <= gemm.columns:
            return tile
    return TILES[-1]


def takes(anchor: Anchor | None) -> bool:
    """Return whether an anchor is a product that the template is good for."""
    if anchor is None or anchor.problem is None or len(anchor.operands) != 2:
        return False
    try:
        gemm = Gemm.of(anchor.problem)
    except NotElementwiseError:
        return False
    return gemm.rows >= LEAST_ROWS and gemm.columns >= LEAST_COLUMNS


def make(func: Any, arch: str, tile: Tile | None = None) -> Any:
    """Return the kernel of a packed convolution or dense layer.

    Parameters
    ----------
    func : tirx.PrimFunc
        As `FuseTIR` leaves it, with 32-bit indices.
    arch : str
        ``"sm_90a"``.
    tile : optional
        Another than the shape asks for.

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
    anchor, epilogue = read_anchor(func), read_epilogue(func)
    activations, weights, number = operands(func, anchor)
    assert anchor.problem is not None
    gemm = Gemm.of(anchor.problem)
    check_packed(gemm.problem, epilogue)
    tile = tile or tile_for(gemm)
    layout = WeightLayout(
        number,
        gemm.problem.groups,
        ceil(gemm.columns, tile.columns) * tile.columns,
        ceil(gemm.words, CHUNK) * CHUNK,
        counts=True,
    )
    params, prepared, counts, attrs = taking(func, layout, str(weights.name))
    kernel = _Kernel(gemm, tile, layout, activations, prepared, counts, epilogue)
    grid = ceil(gemm.rows, tile.rows), layout.outputs // tile.columns, gemm.problem.groups
    return e.build(params, attrs, e.Launch(grid, tile.threads, kernel.emit))


@dataclass
class _Kernel:
    gemm: Gemm
    tile: Tile
    layout: WeightLayout
    activations: Any
    weights: Any
    counts: Any
    epilogue: Epilogue

    def emit(self, blocks: list[Any], thread: Any) -> None:
        """Emit the kernel."""
        tile, gemm = self.tile, self.gemm
        block_row, block_column, block_group = blocks
        self.group = block_group if gemm.problem.groups > 1 else 0
        self.first_row = e.let("first_row", block_row * tile.rows)
        self.first_column = e.let("first_column", block_column * tile.columns)
        self.thread = thread
        self.lane = e.let("lane", tirx.floormod(thread, 32))
        self.warpgroup = e.let("warpgroup", tirx.floordiv(thread, WARPGROUP))
        self.shared = e.Shared(tile.shared, align=1024)
        self.sums = e.registers("sums", tile.columns // 2)
        with e.unroll("i", tile.columns // 2) as i:
            e.store(self.sums, e.u32(0), i)
        self.bits = e.registers("bits", 1)
        self.piece = e.registers("piece", CHUNK)
        e.store(self.bits, e.u32(0), 0)
        self.copies = Copies(
            gemm,
            self.layout,
            tile.stage,
            tile.threads,
            True,
            self.activations,
            self.weights,
            self.shared,
            thread,
            self.group,
            self.first_row,
            self.first_column,
        )
        self._multiply_all()
        self._share_bits()
        self._finish()

    def _multiply_all(self) -> None:
        ahead = self.tile.slots - 2
        self.stages = ceil(self.gemm.words, WORDS)
        for k in range(ahead):
            if k < self.stages:
                self.copies.copy(k, k)
            self.copies.commit()
        full, rest = divmod(self.gemm.words, WORDS)
        if full:
            with e.loop("k", full) as k:
                self._stage(k, WORDS // STEP)
        if rest:
            self._stage(full, ceil(rest, STEP))
        e.ptx("wgmma.wait_group.sync.aligned", 0)

    def _stage(self, k: Any, steps: int) -> None:
        """Multiply one stage and copy another."""
        slots = self.tile.slots
        ahead = slots - 2
        self.copies.wait(ahead - 1)
        e.ptx("fence.proxy.async.shared::cta")
        e.barrier()
        slot = k % slots if isinstance(k, int) else tirx.floormod(k, slots)
        start = slot * (self.tile.stage.size * 4)
        rows = self._descriptor("rows", start + self.warpgroup * (ROWS * WORDS * 4))
        columns = self._descriptor("columns", start + self.tile.rows * WORDS * 4)
        e.ptx("wgmma.fence.sync.aligned")
        opcode = f"wgmma.mma_async.sync.aligned.m64n{self.tile.columns}k256.s32.b1.b1.and.popc"
        for step in range(steps):
            on = tirx.const(step * STEP * 4 >> 4, "uint64")
            sums = [self.sums[i] for i in range(self.tile.columns // 2)]
            e.ptx(opcode, *sums, rows + on, columns + on, True)
        e.ptx("wgmma.commit_group.sync.aligned")
        following = k + ahead
        if isinstance(k, int):
            if following < self.stages:
                self.copies.copy(following % slots, following)
        else:
            with e.when(following < self.stages):
                self.copies.copy(tirx.floormod(following, slots), following)
        self.copies.commit()
        self._count(slot * self.tile.stage.size)
        e.ptx("wgmma.wait_group.sync.aligned", 1)

    def _descriptor(self, name: str, offset: Any) -> Any:
        """Return the descriptor of a matrix: 128B swizzle, 1024 bytes from 8 rows to the next."""
        place = (self.shared.address(offset) & e.u32(0x3FFFF)) >> e.u32(4)
        mode = 1 << 62 | (1024 >> 4) << 32 | 1 << 16
        return e.let(name, tirx.Cast("uint64", place) + tirx.const(mode, "uint64"))

    def _count(self, start: Any) -> None:
        """Add the bits of half a row of this stage to what this thread has counted."""
        row = tirx.floormod(self.thread, self.tile.rows)
        half = tirx.floordiv(self.thread, self.tile.rows)
        with e.unroll("c", HALF // CHUNK) as c:
            place = self.tile.stage.place(row, half * (HALF // CHUNK) + c) + start
            lanes = tirx.Ramp(place, e.i32(1), CHUNK)
            e.store(self.piece, e.load(self.shared.words, lanes), tirx.Ramp(e.i32(0), e.i32(1), 4))
            found = [tirx.popcount(e.load(self.piece, i)) for i in range(CHUNK)]
            total = found[0] + found[1] + found[2] + found[3]
            e.store(self.bits, e.load(self.bits, 0) + total, 0)

    @property
    def _partial(self) -> int:
        """Where partial counts lie in shared memory, in words."""
        return self.tile.stage.size * self.tile.slots

    def _share_bits(self) -> None:
        """Give the lanes that hold a row what two threads counted of it."""
        self.shared.store(self.thread + self._partial, e.load(self.bits, 0))
        e.barrier()

    def _finish(self) -> None:
        gemm, tile = self.gemm, self.tile
        columns = Columns(
            e.let("quad", tirx.floormod(self.lane, 4)),
            self.group * gemm.columns,
            self.first_column,
            tile.columns // 8,
            gemm.columns,
            gemm.columns % tile.columns == 0,
        )
        warp = tirx.floordiv(self.thread, 32)  # of a warpgroup's 64 rows each warp has 16
        local = e.let("local_row", warp * 16 + tirx.floordiv(self.lane, 4))
        activation_bits = e.registers("activation_bits", 2, "int32")
        with e.unroll("r", 2) as r:
            at = local + r * 8 + self._partial
            total = e.load(self.shared.words, at) + e.load(self.shared.words, at + tile.rows)
            e.store(activation_bits, e.i32(total), r)
        first = self.group * self.layout.outputs

        def count(r: Any, eight: Any, half: Any) -> Any:
            value = e.i32(e.load(self.sums, eight * 4 + r * 2 + half))
            weight = e.load(self.counts, columns.local(eight, half) + first)
            return e.load(activation_bits, r) + weight - value * 2

        exact = gemm.rows % tile.rows == 0

        def pixel(r: Any) -> tuple[tuple[Any, ...], Any]:
            return pixel_of_row(gemm.problem, self.first_row + local + r * 8, exact)

        store_sums(self.epilogue, columns, Sums(2, pixel, count))

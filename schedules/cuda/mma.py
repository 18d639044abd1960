# SPDX-License-Identifier: Apache-2.0
"""K2: packed convolutions and dense layers on the tensor cores of a warp, ``mma`` of bits.

The skeleton, outside in::

    block: tile of rows (output pixels) × tile of columns (channels), one group
      words of K, `Tile.words` at a time, `stages` of them in shared memory
        256 bits of K
          ldmatrix: 16 rows × 256 bits of activations, 16 channels × 256 bits of weights
          mma 16 × 8 for each part of the warp's tile
      epilogue in registers, words of bits joined by shuffles

The window of a pixel is gathered while it is copied (`gemm.Window`): 16 bytes of one tap at a time,
or 8 or 4 where a pixel has no more; what lies outside the image arrives as zeros. Shared memory is
swizzled by 16 bytes, so that `ldmatrix` meets no bank twice.

What is counted, with bit 1 = −1 and bits that pad K being 0 in both operands. XOR counts the bits
that differ directly. Where only AND is native (sm_90), differing = |a| + |w| − 2·|a and w|: |w|,
one number for each channel, is prepared with the weights, and |a|, one number for each pixel, is
counted from the very registers that go into ``mma``. A pixel outside the image has bits 0: the
table ``base`` of the epilogue takes out what it adds, as in every other kernel.

========  =================  ======  ==========================================
chips     instruction        counts  why
========  =================  ======  ==========================================
sm_75     m8n8k128           xor     there is nothing else
sm_80–89  m16n8k256          xor     native as well as AND, and needs no |a|
sm_90     m16n8k256          and     XOR is a call of two AND
========  =================  ======  ==========================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from xnortvm._tvm import tirx
from xnortvm.schedules.cuda import emit as e
from xnortvm.schedules.cuda.epilogue import Anchor, Epilogue, NotElementwiseError
from xnortvm.schedules.cuda.gemm import Gemm, ceil
from xnortvm.schedules.cuda.layers import packed_product_of, read_packed_layer
from xnortvm.schedules.cuda.staged import CHUNK, Copies, Mover, Stage, Windows
from xnortvm.schedules.cuda.store import Columns, Sums, pixel_of_row, store_sums
from xnortvm.schedules.cuda.weights import WeightLayout, taking

WARP = 32
#: Words of K that one step of a warp multiplies: 256 bits.
STEP = 8


@dataclass(frozen=True)
class Form:
    """What an architecture's ``mma`` of bits is.

    Attributes
    ----------
    rows, bits : int
        Of one instruction; its columns are 8.
    op : str
        ``"xor"`` or ``"and"``.
    copies : bool
        Whether there are asynchronous copies from global to shared memory.
    """

    rows: int
    bits: int
    op: str
    copies: bool = True

    @property
    def opcode(self) -> str:
        """The PTX instruction."""
        shape = f"m{self.rows}n8k{self.bits}"
        return f"mma.sync.aligned.{shape}.row.col.s32.b1.b1.s32.{self.op}.popc"


_XOR, _AND = Form(16, 256, "xor"), Form(16, 256, "and")

#: From the architecture to its native form.
FORMS: dict[str, Form] = {
    "sm_75": Form(8, 128, "xor", copies=False),
    **dict.fromkeys(("sm_80", "sm_86", "sm_87", "sm_88", "sm_89"), _XOR),
    **dict.fromkeys(("sm_90", "sm_90a"), _AND),
}


class Tile(NamedTuple):
    """What a block computes: warps × (rows, columns) of a warp, and how K is staged."""

    warps: tuple[int, int]
    rows: int
    columns: int
    words: int
    stages: int

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of a block."""
        return self.warps[0] * self.rows, self.warps[1] * self.columns

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.warps[0] * self.warps[1] * WARP

    @property
    def stage(self) -> Stage:
        """One stage of K."""
        return Stage(*self.block, self.words)


#: Tiles from the largest: the first that fills the chip is taken, or the last. With 64 rows a
#: thread would keep 128 sums, beside which an epilogue of two outputs does not fit 255 registers;
#: with 48 it does, and three blocks fit a multiprocessor instead of two.
TILES = (
    Tile((2, 2), 48, 64, 16, 3),
    Tile((4, 1), 32, 64, 16, 4),
    Tile((2, 2), 32, 32, 16, 4),
    Tile((4, 1), 16, 32, 16, 4),
)

#: Channels of a group below which most of a tile would be empty: CUDA cores count those.
LEAST_COLUMNS = 8

#: Blocks that a chip should have at least: two for each of some 72 multiprocessors.
ENOUGH_BLOCKS = 144


def tile_for(gemm: Gemm, tiles: tuple[Tile, ...] = TILES) -> Tile:
    """Return the largest tile that wastes no columns and gives every multiprocessor work."""
    for tile in tiles:
        rows, columns = tile.block
        blocks = ceil(gemm.rows, rows) * ceil(gemm.columns, columns) * gemm.problem.groups
        wasted = ceil(gemm.columns, columns) * columns - gemm.columns
        if blocks >= ENOUGH_BLOCKS and wasted * 4 <= gemm.columns:
            return tile
    return tiles[-1]


def takes(anchor: Anchor | None) -> bool:
    """Return whether an anchor is a product that the template computes."""
    gemm = packed_product_of(anchor)
    return gemm is not None and gemm.columns >= LEAST_COLUMNS


def make(func: Any, arch: str, tile: Tile | None = None, form: Form | None = None) -> Any:
    """Return the kernel of a packed convolution or dense layer.

    Parameters
    ----------
    func : tirx.PrimFunc
        As `FuseTIR` leaves it, with 32-bit indices.
    arch : str
        A key of `FORMS`.
    tile, form : optional
        Other than the architecture and the shape ask for.

    Returns
    -------
    tirx.PrimFunc
        Its weights are laid out as the attribute `weights.PREPARED` says.

    Raises
    ------
    NotElementwiseError
        When the template does not compute this function.
    """
    if arch not in FORMS:
        raise NotElementwiseError(f"{arch} has no native mma of bits")
    gemm, epilogue, activations, number = read_packed_layer(func)
    form, tile = form or FORMS[arch], tile or tile_for(gemm)
    layout = WeightLayout(
        number,
        gemm.problem.groups,
        ceil(gemm.columns, tile.block[1]) * tile.block[1],
        ceil(gemm.words, CHUNK) * CHUNK,
        counts=form.op == "and",
    )
    params, prepared, counts, attrs = taking(func, layout)
    kernel = _Kernel(gemm, form, tile, layout, activations, prepared, counts, epilogue)
    grid = (
        ceil(gemm.rows, tile.block[0]),
        layout.outputs // tile.block[1],
        gemm.problem.groups,
    )
    return e.build(params, attrs, e.Launch(grid, tile.threads, kernel.emit))


@dataclass
class _Kernel:
    gemm: Gemm
    form: Form
    tile: Tile
    layout: WeightLayout
    activations: Any
    weights: Any
    counts: Any
    epilogue: Epilogue

    def emit(self, blocks: list[Any], thread: Any) -> None:
        """Emit the kernel."""
        tile = self.tile
        block_row, block_column, block_group = blocks
        self.group = block_group if self.gemm.problem.groups > 1 else 0
        self.first_row = e.let("first_row", block_row * tile.block[0])
        self.first_column = e.let("first_column", block_column * tile.block[1])
        self.lane = e.let("lane", tirx.floormod(thread, WARP))
        warp = e.let("warp", tirx.floordiv(thread, WARP))
        self.warp_row = e.let("warp_row", tirx.floordiv(warp, tile.warps[1]) * tile.rows)
        self.warp_column = e.let("warp_column", tirx.floormod(warp, tile.warps[1]) * tile.columns)
        self.slots = tile.stages if self.form.copies else 2
        self.shared = e.Shared(tile.stage.size * 4 * self.slots)
        self.sums = e.registers("sums", tile.rows // 16 * tile.columns // 8 * 4)
        self.a = e.registers("a", tile.rows // 16 * 4)
        self.b = e.registers("b", tile.columns // 8 * 2)
        self.bits = e.registers("bits", tile.rows // 8)
        with e.unroll("i", tile.rows // 16 * tile.columns // 8 * 4) as i:
            e.store(self.sums, e.u32(0), i)
        with e.unroll("i", tile.rows // 8) as i:
            e.store(self.bits, e.u32(0), i)
        self.mover = Mover(self.shared, self.form.copies)
        windows = Windows(
            self.gemm, tile.stage, tile.threads, self.mover, self.activations, thread, self.group
        )
        windows.set_rows(self.first_row)
        self.copies = Copies(windows, self.layout, self.weights, self.first_column)
        self._find_fragments()
        self._multiply_all()
        self._finish()

    def _find_fragments(self) -> None:
        """Find the addresses that this lane gives to `ldmatrix`, for each step of a stage."""
        stage = self.tile.stage
        in_eight = tirx.floormod(self.lane, 8)
        second = tirx.floormod(tirx.floordiv(self.lane, 8), 2)
        fourth = tirx.floordiv(self.lane, 16)
        row = self.warp_row + in_eight + second * 8
        column = self.warp_column + in_eight + fourth * 8
        self.a_start, self.b_start = [], []
        for step in range(stage.words // STEP):
            a = stage.place(row, step * 2 + fourth)
            b = stage.place(column, step * 2 + second) + stage.rows * stage.words
            self.a_start.append(e.let(f"a_start{step}", self.shared.address(a * 4)))
            self.b_start.append(e.let(f"b_start{step}", self.shared.address(b * 4)))

    def _multiply_all(self) -> None:
        words, slots = self.tile.words, self.slots
        stages = ceil(self.gemm.words, words)
        for k in range(slots - 1):
            if k < stages:
                self.copies.copy(k, k)
            self.mover.commit()
        with e.loop("k", stages) as k:
            self.mover.wait(slots - 2)
            e.barrier()
            with e.when(k + (slots - 1) < stages):
                self.copies.copy(tirx.floormod(k + (slots - 1), slots), k + (slots - 1))
            self.mover.commit()
            slot = e.let("slot", e.u32(tirx.floormod(k, slots) * (self.tile.stage.size * 4)))
            last = ceil(self.gemm.words, STEP) % (words // STEP)
            for step in range(words // STEP):
                with e.when(True if last == 0 or step < last else k < stages - 1):
                    self._multiply(slot, step)

    def _multiply(self, slot: Any, step: int) -> None:
        """Multiply 256 bits of K."""
        tile, pitch = self.tile, self.tile.words * 4
        opcode = "ldmatrix.sync.aligned.m8n8.x4.shared.b16"
        with e.unroll("i", tile.rows // 16) as i:
            start = self.a_start[step] + slot + e.u32(i * (16 * pitch))
            e.ptx(opcode, *(self.a[4 * i + n] for n in range(4)), start)
            if self.counts is not None:
                for half in range(2):
                    found = [tirx.popcount(e.load(self.a, 4 * i + half + n)) for n in (0, 2)]
                    total = e.load(self.bits, 2 * i + half) + found[0] + found[1]
                    e.store(self.bits, total, 2 * i + half)
        with e.unroll("j", tile.columns // 16) as j:
            start = self.b_start[step] + slot + e.u32(j * (16 * pitch))
            e.ptx(opcode, *(self.b[4 * j + n] for n in range(4)), start)
        with e.unroll("i", tile.rows // 16) as i, e.unroll("j", tile.columns // 8) as j:
            self._mma(i, j)

    def _mma(self, i: Any, j: Any) -> None:
        """Multiply 16 rows and 8 columns: with one instruction, or with four of 8 rows."""
        first = (i * (self.tile.columns // 8) + j) * 4
        sums, a, b = self.sums, self.a, self.b
        if self.form.rows == 16:
            c = [sums[first + n] for n in range(4)]
            rows, columns = (a[4 * i + n] for n in range(4)), (b[2 * j], b[2 * j + 1])
            e.ptx(self.form.opcode, *c, *rows, *columns, *c)
            return
        for half in range(2):
            c = [sums[first + 2 * half + n] for n in range(2)]
            for k in range(2):
                e.ptx(self.form.opcode, *c, a[4 * i + half + 2 * k], b[2 * j + k], *c)

    def _finish(self) -> None:
        gemm, tile = self.gemm, self.tile
        eights = tile.columns // 8
        column = e.let("column", self.first_column + self.warp_column)
        columns = Columns.of(
            gemm.problem, self.lane, self.group, column, tile.columns, tile.block[1]
        )
        added = None
        if self.counts is not None:
            self._join_bits()
            added = self.counts, self.group * self.layout.outputs
        row = e.let("lane_row", self.first_row + self.warp_row + tirx.floordiv(self.lane, 4))

        def count(r: Any, eight: Any, half: Any) -> Any:
            i, part = tirx.floordiv(r, 2), tirx.floormod(r, 2)
            number = (i * eights + eight) * 4 + part * 2 + half
            value = e.i32(e.load(self.sums, number))
            if self.counts is None:
                return value
            return e.i32(e.load(self.bits, r)) - value * 2

        exact = gemm.rows % tile.block[0] == 0

        def pixel(r: Any) -> tuple[tuple[Any, ...], Any]:
            return pixel_of_row(gemm.problem, row + r * 8, exact)

        store_sums(self.epilogue, columns, Sums(tile.rows // 8, pixel, count, added))

    def _join_bits(self) -> None:
        """Add up the bits of a row that the four lanes of a quad counted."""
        other = e.registers("other", 1)
        with e.unroll("r", self.tile.rows // 8) as r:
            for bits in (1, 2):
                e.store(other, e.load(self.bits, r), 0)
                e.shuffle_xor(other, 0, 0, bits)
                e.store(self.bits, e.load(self.bits, r) + e.load(other, 0), r)

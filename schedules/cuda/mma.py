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
that differ directly. Where only AND is native (sm_90), differing = |a| + |w| − 2·|a and w|: |w|, one
number for each channel, is prepared with the weights, and |a|, one number for each pixel, is counted
from the very registers that go into ``mma``. A pixel outside the image has bits 0: the table ``base``
of the epilogue takes out what it adds, as in every other kernel.

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
from xnortvm.schedules.cuda.epilogue import Epilogue, NotElementwiseError, read_anchor, read_epilogue
from xnortvm.schedules.cuda.gemm import (
    Gemm,
    Row,
    Window,
    ceil,
    check_packed,
    operands,
    pixel_of,
)
from xnortvm.schedules.cuda.store import Columns, store_row
from xnortvm.schedules.cuda.weights import PREPARED, WeightLayout

WARP = 32
#: Words of K that one step of a warp multiplies: 256 bits.
STEP = 8
#: Words that an asynchronous copy moves at most, and that `ldmatrix` reads of a row.
CHUNK = 4


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
    def stage(self) -> int:
        """Bytes of one stage."""
        return sum(self.block) * self.words * 4


#: Tiles from the largest: the first that fills the chip is taken, or the last.
TILES = (
    Tile((2, 2), 64, 64, 16, 3),
    Tile((4, 1), 32, 64, 16, 4),
    Tile((2, 2), 32, 32, 16, 4),
    Tile((4, 1), 16, 32, 16, 4),
)

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
        Its weights are laid out as the attribute `PREPARED` says.

    Raises
    ------
    NotElementwiseError
        When the template does not compute this function.
    """
    if arch not in FORMS:
        raise NotElementwiseError(f"{arch} has no native mma of bits")
    anchor, epilogue = read_anchor(func), read_epilogue(func)
    activations, weights, number = operands(func, anchor)
    assert anchor.problem is not None
    gemm = Gemm.of(anchor.problem)
    check_packed(gemm.problem, epilogue)
    form, tile = form or FORMS[arch], tile or tile_for(gemm)
    layout = WeightLayout(
        number,
        gemm.problem.groups,
        ceil(gemm.columns, tile.block[1]) * tile.block[1],
        ceil(gemm.words, CHUNK) * CHUNK,
        counts=form.op == "and",
    )
    prepared = tirx.decl_buffer(layout.shape, "uint32", str(weights.name))
    counts = tirx.decl_buffer((layout.shape[0],), "int32", "weight_bits") if layout.counts else None
    params = list(func.params)
    params[number : number + 1] = [prepared] if counts is None else [prepared, counts]
    kernel = _Kernel(gemm, form, tile, layout, activations, prepared, counts, epilogue)
    grid = (
        ceil(gemm.rows, tile.block[0]),
        layout.outputs // tile.block[1],
        gemm.problem.groups,
    )
    return e.build(params, grid, tile.threads, kernel.emit, {PREPARED: layout.to_json()})


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
        tile, gemm = self.tile, self.gemm
        block_row, block_column, group = blocks
        if gemm.problem.groups == 1:
            group = 0
        self.first_row = e.let("first_row", block_row * tile.block[0])
        self.first_column = e.let("first_column", block_column * tile.block[1])
        self.group, self.thread = group, thread
        self.lane = e.let("lane", tirx.floormod(thread, WARP))
        warp = e.let("warp", tirx.floordiv(thread, WARP))
        self.warp_row = e.let("warp_row", tirx.floordiv(warp, tile.warps[1]) * tile.rows)
        self.warp_column = e.let("warp_column", tirx.floormod(warp, tile.warps[1]) * tile.columns)
        self.shared = e.Shared(tile.stage * tile.stages)
        self.accumulators = e.registers("sums", tile.rows // 16 * tile.columns // 8 * 4)
        self.a = e.registers("a", tile.rows // 16 * 4)
        self.b = e.registers("b", tile.columns // 8 * 2)
        self.bits = e.registers("bits", tile.rows // 8)
        for i in range(tile.rows // 16 * tile.columns // 8 * 4):
            e.store(self.accumulators, e.u32(0), i)
        if self.counts is not None:
            for i in range(tile.rows // 8):
                e.store(self.bits, e.u32(0), i)
        self._prepare_copies()
        self._prepare_fragments()
        self._multiply_all()
        self._finish()

    # -- copies ------------------------------------------------------------------------------------
    def _prepare_copies(self) -> None:
        gemm, tile = self.gemm, self.tile
        self.window = Window(gemm, self.group)
        self.pieces = tile.words // gemm.piece
        self.copy_row = e.let("copy_row", tirx.floordiv(self.thread, self.pieces))
        self.copy_piece = e.let("copy_piece", tirx.floormod(self.thread, self.pieces))
        self.row_step = tile.threads // self.pieces
        self.copied: list[Row] = []
        for i in range(ceil(tile.block[0], self.row_step)):
            row = self.first_row + self.copy_row + i * self.row_step
            if gemm.rows % tile.block[0]:
                row = tirx.min(row, gemm.rows - 1)
            self.copied.append(self.window.row(f"row{i}", e.let(f"row{i}", row)))

    def _swizzled(self, row: Any, chunk: Any) -> Any:
        """Return the place of a chunk of a row, in words from the start of a matrix."""
        chunks = self.tile.words // CHUNK
        mixed = chunk ^ tirx.floormod(tirx.floordiv(row, 8 // min(chunks, 8)), chunks)
        return row * self.tile.words + mixed * CHUNK

    def _copy(self, stage: Any, k: Any) -> None:
        """Copy one stage; `k` counts stages of K."""
        tile, gemm = self.tile, self.gemm
        piece = gemm.piece
        place = e.let("place", stage * (tile.stage // 4))
        word = e.let("word", k * tile.words + self.copy_piece * piece)
        offset, dy, dx, channel = self.window.step("k", word)
        exists = True if gemm.words % tile.words == 0 else word < gemm.words
        chunk, rest = (
            tirx.floordiv(self.copy_piece, CHUNK // piece),
            tirx.floormod(self.copy_piece, CHUNK // piece) * piece,
        )
        for i, row in enumerate(self.copied):
            local = self.copy_row + i * self.row_step
            to = place + self._swizzled(local, chunk) + rest
            partial = tile.block[0] % self.row_step != 0
            with e.when(local < tile.block[0] if partial else True):
                inside = e.both(exists, self.window.inside(row, dy, dx))
                source = row.offset + offset
                self._copy_piece(self.activations, source, to, piece, inside, channel, exists)
        chunks = tile.words // CHUNK
        step = tile.threads // chunks
        local_row = tirx.floordiv(self.thread, chunks)
        local_chunk = tirx.floormod(self.thread, chunks)
        word = e.let("weight_word", k * tile.words + local_chunk * CHUNK)
        there = True if self.layout.words % tile.words == 0 else word < self.layout.words
        first = self.first_column + self.group * self.layout.outputs
        for i in range(ceil(tile.block[1], step)):
            local = local_row + i * step
            to = place + tile.block[0] * tile.words + self._swizzled(local, local_chunk)
            with e.when(local < tile.block[1] if tile.block[1] % step else True):
                source = (first + local) * self.layout.words + word
                self._copy_piece(self.weights, source, to, CHUNK, there)

    def _copy_piece(
        self,
        buffer: Any,
        source: Any,
        to: Any,
        size: int,
        inside: Any,
        channel: Any = None,
        exists: Any = True,
    ) -> None:
        """Copy words, or zeros (ones of padding by −1) where they are not inside."""
        if self.gemm.problem.pad_value == -1 and channel is not None and inside is not True:
            outside = self.gemm.problem.padding_word
            e.when_else(
                inside,
                lambda: self._copy_piece(buffer, source, to, size, True),
                lambda: self._store_piece(
                    to,
                    [
                        outside(channel + i)
                        if exists is True
                        else tirx.Select(exists, outside(channel + i), e.u32(0))
                        for i in range(size)
                    ],
                ),
            )
            return
        safe = source if inside is True else tirx.Select(inside, source, e.i32(0))
        safe = e.let("source", safe)
        if self.form.copies:
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
        index = e.let("to", to)
        self.shared.store(index if size == 1 else tirx.Ramp(index, e.i32(1), size), value)

    def _store_piece(self, to: Any, values: list[Any]) -> None:
        for i, value in enumerate(values):
            self.shared.store(to + i, value)

    # -- products ----------------------------------------------------------------------------------
    def _prepare_fragments(self) -> None:
        """Find the addresses that this lane gives to `ldmatrix`, for each step of a stage."""
        lane = self.lane
        in_eight, second, fourth = (
            tirx.floormod(lane, 8),
            tirx.floormod(tirx.floordiv(lane, 8), 2),
            tirx.floordiv(lane, 16),
        )
        row = self.warp_row + in_eight + second * 8
        column = self.warp_column + in_eight + fourth * 8
        self.a_offset, self.b_offset = [], []
        for step in range(self.tile.words // STEP):
            a = self._swizzled(row, step * 2 + fourth) * 4
            b = (self.tile.block[0] * self.tile.words + self._swizzled(column, step * 2 + second)) * 4
            self.a_offset.append(e.let(f"a_offset{step}", self.shared.address(a)))
            self.b_offset.append(e.let(f"b_offset{step}", self.shared.address(b)))

    def _multiply_all(self) -> None:
        tile = self.tile
        steps, stages = ceil(self.gemm.words, tile.words), tile.stages
        if not self.form.copies:
            stages = 2
        for stage in range(stages - 1):
            if stage < steps:
                self._copy(stage, stage)
            self._commit()
        with e.loop("k", steps) as k:
            if self.form.copies:
                e.ptx("cp.async.wait_group", stages - 2)
            e.barrier()
            with e.when(k + (stages - 1) < steps):
                self._copy(tirx.floormod(k + (stages - 1), stages), k + (stages - 1))
            self._commit()
            stage = e.let("stage", e.u32(tirx.floormod(k, stages) * tile.stage))
            for step in range(tile.words // STEP):
                last = ceil(self.gemm.words, STEP) % (tile.words // STEP)
                always = last == 0 or step < last
                with e.when(True if always else k < steps - 1):
                    self._multiply(stage, step)

    def _commit(self) -> None:
        if self.form.copies:
            e.ptx("cp.async.commit_group")

    def _multiply(self, stage: Any, step: int) -> None:
        tile = self.tile
        pitch = tile.words * 4
        opcode = "ldmatrix.sync.aligned.m8n8.x4.shared.b16"
        for i in range(tile.rows // 16):
            at = self.a_offset[step] + stage + e.u32(i * 16 * pitch)
            e.ptx(opcode, *(self.a[4 * i + j] for j in range(4)), at)
            if self.counts is not None:
                for half in range(2):
                    found = [tirx.popcount(e.load(self.a, 4 * i + half + j)) for j in (0, 2)]
                    total = e.load(self.bits, 2 * i + half) + found[0] + found[1]
                    e.store(self.bits, total, 2 * i + half)
        for j in range(tile.columns // 16):
            at = self.b_offset[step] + stage + e.u32(j * 16 * pitch)
            e.ptx(opcode, *(self.b[4 * j + n] for n in range(4)), at)
        for i in range(tile.rows // 16):
            for j in range(tile.columns // 8):
                self._mma(i, j)

    def _mma(self, i: int, j: int) -> None:
        """Multiply 16 rows and 8 columns: with one instruction, or with four of 8 rows."""
        first = (i * (self.tile.columns // 8) + j) * 4
        sums, a, b = self.accumulators, self.a, self.b
        if self.form.rows == 16:
            c = [sums[first + n] for n in range(4)]
            e.ptx(self.form.opcode, *c, *(a[4 * i + n] for n in range(4)), b[2 * j], b[2 * j + 1], *c)
            return
        for half in range(2):
            c = [sums[first + 2 * half + n] for n in range(2)]
            for k in range(2):
                e.ptx(self.form.opcode, *c, a[4 * i + half + 2 * k], b[2 * j + k], *c)

    # -- epilogue ----------------------------------------------------------------------------------
    def _finish(self) -> None:
        gemm, tile = self.gemm, self.tile
        scratch = e.registers("scratch", 2)
        quad = e.let("quad", tirx.floormod(self.lane, 4))
        columns = Columns(
            quad,
            self.group * gemm.columns if gemm.problem.groups > 1 else 0,
            e.let("column", self.first_column + self.warp_column),
            tile.columns // 8,
            gemm.columns,
            gemm.columns % tile.block[1] == 0,
        )
        weight_bits: dict[tuple[int, int], Any] = {}
        if self.counts is not None:
            for j in range(tile.columns // 8):
                for half in range(2):
                    index = columns.local(j, half) + self.group * self.layout.outputs
                    weight_bits[j, half] = e.let("weight_bits", e.load(self.counts, index))
        for i in range(tile.rows // 16):
            for half in range(2):
                if self.counts is not None:
                    self._join_bits(2 * i + half, scratch)
                row = self.first_row + self.warp_row + tirx.floordiv(self.lane, 4)
                row = e.let("row", row + (i * 16 + half * 8))
                exists = True if gemm.rows % tile.block[0] == 0 else row < gemm.rows
                clamped = row if exists is True else e.let("clamped", tirx.min(row, gemm.rows - 1))
                names = ("image", "y", "x")
                pixel = tuple(
                    e.let(name, value)
                    for name, value in zip(names, pixel_of(gemm.problem, clamped), strict=True)
                )

                def count(eight: int, part: int, i: int = i, half: int = half) -> Any:
                    first = (i * (tile.columns // 8) + eight) * 4 + 2 * half
                    value = e.i32(e.load(self.accumulators, first + part))
                    if self.counts is None:
                        return value
                    bits = e.i32(e.load(self.bits, 2 * i + half))
                    return bits + weight_bits[eight, part] - value * 2

                store_row(self.epilogue, columns, pixel, exists, count, scratch)  # type: ignore[arg-type]

    def _join_bits(self, index: int, scratch: Any) -> None:
        """Add up the bits of a row that the four lanes of a quad counted."""
        for bits in (1, 2):
            e.store(scratch, e.load(self.bits, index), 0)
            e.shuffle_xor(scratch, 0, 1, bits)
            e.store(self.bits, e.load(self.bits, index) + e.load(scratch, 1), index)

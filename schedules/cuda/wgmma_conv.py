# SPDX-License-Identifier: Apache-2.0
"""K3: direct convolutions on Hopper's warpgroup tensor cores, without gathering windows.

A patch of the image lies once in shared memory, as [16 bytes of channels][position][16 bytes];
positions count the pixels of the padded images one after the other. In the layout without swizzle
the 64 rows of an operand are 64 consecutive positions, so **each tap is the same patch at another
start**, and the leading offset of a descriptor joins any two chunks of 16 bytes, also of different
taps. Positions that are no output (the last columns and rows of a padded image) are computed and
not stored: 7 % at 56×56, 23 % at 14×14, 40 % at 7×7.

The skeleton, outside in::

    block, persistent: its weights in shared memory, once
      warpgroup, on its own: every other tile of 64 positions
        the patch of its next tile is copied
        all wgmma of a tile, asynchronous; meanwhile the bits of each position are counted
        epilogue, while the other warpgroup multiplies

``differing = |a| + |w| − 2·|a and w|`` as in `wgmma_gemm`; here a pixel's bits are counted once,
and |a| is their sum over the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from xnortvm._tvm import tirx
from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda import emit as e
from xnortvm.schedules.cuda.epilogue import (
    Anchor,
    Epilogue,
    NotElementwiseError,
    read_anchor,
    read_epilogue,
)
from xnortvm.schedules.cuda.gemm import Gemm, ceil, check_packed, operands
from xnortvm.schedules.cuda.store import Columns, Sums, store_sums
from xnortvm.schedules.cuda.weights import WeightLayout, taking

ARCH = "sm_90a"
WARPGROUP = 128
WARPGROUPS = 2
#: Rows of one wgmma: positions of a tile.
ROWS = 64
#: Words of a chunk: 16 bytes.
CHUNK = 4
CHUNK_BYTES = 16
#: Multiprocessors of an H100 or H200; blocks for each of them that share its memory.
MULTIPROCESSORS, BLOCKS = 132, 2
#: KiB of shared memory of a multiprocessor; each of its blocks takes one more than it asks for.
SHARED = 227
#: Positions below which there is not a tile for each warpgroup of a chip.
LEAST_POSITIONS = MULTIPROCESSORS * WARPGROUPS * ROWS


class Tile(NamedTuple):
    """What there is to decide: output channels of a block, and blocks of a multiprocessor."""

    columns: int
    blocks: int = BLOCKS


#: What the rule chooses from: the first that fits and computes the fewest channels.
TILES = (Tile(128), Tile(64), Tile(32))


@dataclass(frozen=True)
class Patch:
    """The sizes of a direct convolution.

    Attributes
    ----------
    problem : Problem
    columns : int
        Output channels of a block.
    """

    problem: Problem
    columns: int

    @property
    def width(self) -> int:
        """Columns of a padded image."""
        return self.problem.width + self.problem.padding[1] + self.problem.padding[3]

    @property
    def area(self) -> int:
        """Positions of a padded image."""
        top, _, bottom, _ = self.problem.padding
        return (self.problem.height + top + bottom) * self.width

    @property
    def positions(self) -> int:
        """Positions of all images."""
        return self.problem.images * self.area

    @property
    def taps(self) -> list[int]:
        """How many positions each tap lies behind the first."""
        (height, width), (dy, dx) = self.problem.kernel, self.problem.dilation
        return [y * dy * self.width + x * dx for y in range(height) for x in range(width)]

    @property
    def chunks(self) -> int:
        """Chunks of a pixel."""
        return self.problem.words // CHUNK

    @property
    def length(self) -> int:
        """Positions of a patch; one more for a step that has no second chunk."""
        return ROWS + self.taps[-1] + 1

    @property
    def steps(self) -> int:
        """Products of 256 bits: two chunks."""
        return ceil(len(self.taps) * self.chunks, 2)

    def start(self, chunk: int) -> int:
        """Return where a chunk of K starts in a patch, in chunks."""
        tap, channel = divmod(chunk, self.chunks)
        return channel * self.length + self.taps[tap]

    @property
    def weight_bytes(self) -> int:
        """Shared memory of the weights."""
        return self.steps * 2 * self.columns * CHUNK_BYTES

    @property
    def patch_bytes(self) -> int:
        """Shared memory of one patch, rounded up."""
        return ceil(self.chunks * self.length, 8) * 8 * CHUNK_BYTES

    @property
    def count_bytes(self) -> int:
        """Shared memory of the counts of one patch, rounded up."""
        return ceil(self.length, 32) * 128

    @property
    def shared(self) -> int:
        """Shared memory of a block: weights, and for each warpgroup two patches and its counts."""
        return self.weight_bytes + WARPGROUPS * (2 * self.patch_bytes + self.count_bytes)


def tile_for(problem: Problem) -> Tile:
    """Return the tile that fits shared memory and wastes the fewest channels.

    Raises
    ------
    NotElementwiseError
        When the template does not compute the problem.
    """
    fitting = [tile for tile in TILES if fits(problem, tile)]
    if not fitting:
        raise NotElementwiseError("weights and patches do not fit shared memory")
    return min(fitting, key=lambda tile: ceil(problem.outputs, tile.columns) * tile.columns)


def fits(problem: Problem, tile: Tile) -> bool:
    """Return whether the blocks of a multiprocessor fit its shared memory."""
    return patch_of(problem, tile).shared <= (SHARED // tile.blocks - 1) << 10


def patch_of(problem: Problem, tile: Tile | None = None) -> Patch:
    """Return the sizes for a problem, with another tile than it asks for.

    Raises
    ------
    NotElementwiseError
        When the template does not compute it.
    """
    Gemm.of(problem)
    refused = (
        (prod(problem.kernel) == 1, "a 1×1 convolution has no taps to share"),
        (problem.strides != (1, 1), "the windows of a stride are no consecutive positions"),
        (problem.groups != 1, "groups read parts of a pixel"),
        (problem.words % CHUNK != 0, "pixels do not fill 16 bytes"),
        (problem.words // CHUNK % 2 == 1 < problem.words // CHUNK, "an odd number of chunks"),
        (problem.pad_value == -1 and any(problem.padding), "copies fill up with zeros"),
    )
    for applies, why in refused:
        if applies:
            raise NotElementwiseError(why)
    return Patch(problem, (tile or tile_for(problem)).columns)


def takes(anchor: Anchor | None) -> bool:
    """Return whether an anchor is a convolution that the template is good for."""
    if anchor is None or anchor.problem is None or len(anchor.operands) != 2:
        return False
    try:
        return patch_of(anchor.problem).positions >= LEAST_POSITIONS
    except NotElementwiseError:
        return False


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
    anchor, epilogue = read_anchor(func), read_epilogue(func)
    activations, weights, number = operands(func, anchor)
    assert anchor.problem is not None
    tile = tile or tile_for(anchor.problem)
    patch = patch_of(anchor.problem, tile)
    check_packed(patch.problem, epilogue)
    layout = WeightLayout(
        number,
        1,
        ceil(patch.problem.outputs, patch.columns) * patch.columns,
        patch.steps * 2 * CHUNK,
        chunk=CHUNK,
        tile=patch.columns,
        counts=True,
    )
    params, prepared, counts, attrs = taking(func, layout, str(weights.name))
    column_tiles = layout.outputs // patch.columns
    enough = ceil(ceil(patch.positions, ROWS), WARPGROUPS)
    shared = blocks or max(MULTIPROCESSORS * tile.blocks // column_tiles, 1)
    grid = min(shared, enough), column_tiles, 1
    kernel = _Kernel(patch, grid[0], activations, prepared, counts, epilogue)
    return e.build(params, attrs, e.Launch(grid, WARPGROUPS * WARPGROUP, kernel.emit))


@dataclass
class _Kernel:
    patch: Patch
    blocks: int
    activations: Any
    weights: Any
    counts: Any
    epilogue: Epilogue

    def emit(self, blocks: list[Any], thread: Any) -> None:
        """Emit the kernel."""
        patch = self.patch
        self.column_tile = blocks[1]
        self.warpgroup = e.let("warpgroup", tirx.floordiv(thread, WARPGROUP))
        self.thread = e.let("own", tirx.floormod(thread, WARPGROUP))
        self.lane = e.let("lane", tirx.floormod(thread, 32))
        self.shared = e.Shared(patch.shared, align=128)
        own = self.warpgroup * (2 * patch.patch_bytes + patch.count_bytes) + patch.weight_bytes
        self.patches = e.let("patches", own)
        self.found = e.let("found", self.shared.address(own + 2 * patch.patch_bytes))
        self.sums = e.registers("sums", patch.columns // 2)
        self._copy_weights(thread)
        first = e.let("first", blocks[0] * WARPGROUPS + self.warpgroup)
        self._copy_patch(0, first)
        e.ptx("cp.async.commit_group")
        e.ptx("cp.async.wait_group", 0)
        e.ptx("fence.proxy.async.shared::cta")
        e.barrier()  # the weights are there; from here on each warpgroup is on its own
        tiles = ceil(patch.positions, ROWS)
        step = self.blocks * WARPGROUPS
        with e.loop("turn", ceil(tiles, step)) as turn:
            tile = e.let("tile", first + turn * step)
            with e.when(tile < tiles):
                self._tile(tile, tirx.floormod(turn, 2), tile + step)

    def _copy_weights(self, thread: Any) -> None:
        chunks = self.patch.weight_bytes // CHUNK_BYTES
        threads = WARPGROUPS * WARPGROUP
        start = self.column_tile * (chunks * CHUNK)
        with e.loop("i", ceil(chunks, threads)) as i:
            chunk = e.let("chunk", i * threads + thread)
            with e.when(chunk < chunks if chunks % threads else True):
                source = e.address(e.at(self.weights, start + chunk * CHUNK))
                to = self.shared.address(chunk * CHUNK_BYTES)
                e.ptx("cp.async.cg.shared.global", to, source, CHUNK_BYTES, e.u32(CHUNK_BYTES))

    def _copy_patch(self, slot: Any, tile: Any) -> None:
        """Copy the patch of a tile, which may lie behind the last; zeros outside the images."""
        patch, made = self.patch, self.patch.problem
        top, left, _, _ = made.padding
        total = patch.chunks * patch.length
        with e.unroll("i", ceil(total, WARPGROUP)) as i:
            number = e.let("number", i * WARPGROUP + self.thread)
            with e.when(number < total if total % WARPGROUP else True):
                local = e.let("local", tirx.floordiv(number, patch.chunks))
                chunk = e.let("chunk", tirx.floormod(number, patch.chunks))
                position = e.let("position", tile * ROWS + local)
                image = e.let("image", tirx.floordiv(position, patch.area))
                rest = e.let("rest", tirx.floormod(position, patch.area))
                y = e.let("y", tirx.floordiv(rest, patch.width) - top)
                x = e.let("x", tirx.floormod(rest, patch.width) - left)
                inside = tirx.all(
                    image < made.images, y >= 0, y < made.height, x >= 0, x < made.width
                )
                pixel = (image * made.height + y) * made.width + x
                source = tirx.Select(inside, pixel * made.words + chunk * CHUNK, e.i32(0))
                place = (chunk * patch.length + local) * CHUNK_BYTES
                to = self.shared.address(self.patches + slot * patch.patch_bytes + place)
                read = tirx.Select(inside, e.u32(CHUNK_BYTES), e.u32(0))
                pointer = e.address(e.at(self.activations, e.let("source", source)))
                e.ptx("cp.async.cg.shared.global", to, pointer, CHUNK_BYTES, read)

    def _tile(self, tile: Any, slot: Any, following: Any) -> None:
        """Compute one tile whose patch has been copied."""
        patch = self.patch
        e.ptx("cp.async.wait_group", 0)
        e.ptx("fence.proxy.async.shared::cta")
        self._meet()
        with e.unroll("i", patch.columns // 2) as i:
            e.store(self.sums, e.u32(0), i)
        start = e.let("patch", self.patches + slot * patch.patch_bytes)
        self._multiply(start)
        self._copy_patch(1 - slot, following)  # the last tile copies zeros
        e.ptx("cp.async.commit_group")
        self._count(start)
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
        patch = self.patch
        rows = self._descriptor("rows", start, 0)
        columns = self._descriptor("columns", 0, patch.columns)
        opcode = f"wgmma.mma_async.sync.aligned.m64n{patch.columns}k256.s32.b1.b1.and.popc"
        last = len(patch.taps) * patch.chunks - 1
        e.ptx("wgmma.fence.sync.aligned")
        for step in range(patch.steps):
            first = patch.start(2 * step)
            lead = patch.start(2 * step + 1) - first if 2 * step < last else 1
            sums = [self.sums[i] for i in range(patch.columns // 2)]
            a = rows + tirx.const((lead << 16) + first, "uint64")
            b = columns + tirx.const(step * 2 * patch.columns, "uint64")
            e.ptx(opcode, *sums, a, b, True)
        e.ptx("wgmma.commit_group.sync.aligned")

    def _descriptor(self, name: str, offset: Any, lead: int) -> Any:
        """Return the descriptor of a matrix without swizzle, 128 bytes from 8 rows to the next."""
        place = (self.shared.address(offset) & e.u32(0x3FFFF)) >> e.u32(4)
        mode = (128 >> 4) << 32 | lead << 16
        return e.let(name, tirx.Cast("uint64", place) + tirx.const(mode, "uint64"))

    def _count(self, start: Any) -> None:
        """Count the bits of each position of the patch."""
        patch = self.patch
        words = e.registers("words", CHUNK)
        total = e.registers("total", 1)
        with e.unroll("i", ceil(patch.length, WARPGROUP)) as i:
            position = e.let("position", i * WARPGROUP + self.thread)
            with e.when(position < patch.length):
                e.store(total, e.u32(0), 0)
                with e.unroll("c", patch.chunks) as c:
                    place = start + (c * patch.length + position) * CHUNK_BYTES
                    lanes = [words[n] for n in range(CHUNK)]
                    e.ptx("ld.shared.v4.u32", *lanes, self.shared.address(place))
                    bits = [tirx.popcount(e.load(words, n)) for n in range(CHUNK)]
                    e.store(total, e.load(total, 0) + bits[0] + bits[1] + bits[2] + bits[3], 0)
                to = self.found + e.u32(position * 4)
                e.ptx("st.shared.u32", to, e.load(total, 0))

    def _finish(self, tile: Any) -> None:
        patch, made = self.patch, self.patch.problem
        warp = tirx.floordiv(self.thread, 32)
        local = e.let("local_row", warp * 16 + tirx.floordiv(self.lane, 4))
        bits = e.registers("activation_bits", 2)
        part = e.registers("part", 1)
        with e.unroll("r", 2) as r:
            e.store(bits, e.u32(0), r)
            for tap in patch.taps:
                at = self.found + e.u32((local + r * 8 + tap) * 4)
                e.ptx("ld.shared.u32", part[0], at)
                e.store(bits, e.load(bits, r) + e.load(part, 0), r)
        columns = Columns(
            e.let("quad", tirx.floormod(self.lane, 4)),
            0,
            e.let("column", self.column_tile * patch.columns),
            patch.columns // 8,
            made.outputs,
            made.outputs % patch.columns == 0,
        )
        height, width = made.map

        def pixel(r: Any) -> tuple[tuple[Any, ...], Any]:
            position = e.let("output", tile * ROWS + local + r * 8)
            image = e.let("output_image", tirx.floordiv(position, patch.area))
            rest = tirx.floormod(position, patch.area)
            y = e.let("output_y", tirx.floordiv(rest, patch.width))
            x = e.let("output_x", tirx.floormod(rest, patch.width))
            exists = tirx.all(image < made.images, y < height, x < width)
            ends = made.images - 1, height - 1, width - 1
            near = zip((image, y, x), ends, strict=True)
            return tuple(tirx.min(value, end) for value, end in near), exists

        def count(r: Any, eight: Any, half: Any) -> Any:
            value = e.i32(e.load(self.sums, eight * 4 + r * 2 + half))
            return e.i32(e.load(bits, r)) - value * 2

        store_sums(self.epilogue, columns, Sums(2, pixel, count, (self.counts, 0)))

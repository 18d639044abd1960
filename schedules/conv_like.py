# SPDX-License-Identifier: Apache-2.0
"""The rule for convolutions and dense layers, packed and float alike, with their epilogues.

The skeleton, outside in::

    block of output channels        parallel with the next two when there are threads
      image, row tile, column tile
        vectors of the channel block, `Tile.vectors` at a time
          reduction loops
            pixels × vectors        unrolled: the accumulators, in registers
              lanes                 one vector
        each output of the kernel   the tile again: epilogue, store, pack

One block of output channels is a whole word of packed bits, so a tile can be packed at once.

Measured on one core of a 2-core AMD Zen 3 virtual machine at 3.23 GHz (AVX2 only), float output;
limits: 0.377 TBMAC/s for xor + popcount + add in registers, 51.7 GMAC/s for FMA. The packed
lines are those of ``xnortvm bench --layers``.

=====================  =========  ==============
kernel                 speed      share of limit
=====================  =========  ==============
3×3 64→64, 56×56       0.349 T    93 %
3×3 64→128, 56×56 s2   0.348 T    92 %
3×3 128→128, 28×28     0.352 T    93 %
3×3 256→256, 14×14     0.363 T    96 %
3×3 512→512, 7×7       0.357 T    95 %
1×1 64→128, 56×56 s2   0.237 T    63 %
dense 4096→4096        0.328 T    87 %
float 7×7 3→64 s2      47.4 G     92 %
float 1×1 256→256      48.3 G     93 %
float 3×3 64→64, 56    46.3 G     90 %
=====================  =========  ==============

Why the tile fits: AVX2 has 16 registers; 8 accumulators, 1 weight vector, 2 constants and 3
intermediate results are 14. AVX-512 has 32: 7 pixels × 2 vectors, no spills in the assembly.
"""

from __future__ import annotations

from typing import Any

from xnortvm._tvm import tirx
from xnortvm.schedules.blocks import Kernel, is_reduction, operator, read_kernel
from xnortvm.schedules.epilogue import schedule_epilogue, separate_output
from xnortvm.schedules.isa import Isa
from xnortvm.schedules.tiling import WORD, Tile, choose_tile

#: Steps whose activations are spread to table rows together: one word.
ROWS_OF_A_WORD = 8


def schedule_conv_like(sch: Any, isa: Isa, num_threads: int) -> bool:
    """Schedule a kernel with a convolution or dense anchor; False when it has another form."""
    kernel = read_kernel(sch)
    if kernel is None:
        return False
    separate_output(sch, kernel)
    for block in kernel.inline:
        sch.compute_inline(block)
    _inline_whole_chunk(sch, kernel)
    for block in kernel.before:
        _PREPARE[operator(sch, block)](sch, block)
    kernel.lanes = kernel.lanes or isa.lanes
    tile, block_channels = _choose(sch, kernel, isa)
    tile_loop = _schedule_anchor(sch, kernel, tile, block_channels, isa, num_threads)
    schedule_epilogue(sch, kernel, tile_loop, block_channels, isa)
    return True


def _inline_whole_chunk(sch: Any, kernel: Kernel) -> None:
    """Make the byte sums the anchor when one chunk is the whole reduction."""
    if kernel.bytes is not None and not is_reduction(sch, kernel.anchor):
        sch.compute_inline(kernel.anchor)
        kernel.anchor, kernel.bytes = kernel.bytes, None


def _extents(sch: Any, block: Any) -> list[int]:
    return [int(sch.get(loop).extent) for loop in sch.get_loops(block)]


def _choose(sch: Any, kernel: Kernel, isa: Isa) -> tuple[Tile, int]:
    """Return the register tile and the channels of one block."""
    spatial = len(sch.get(kernel.anchor).writes[0].source.shape)
    *lead, channels = _extents(sch, kernel.anchor)[:spatial]
    vectors = channels // kernel.lanes
    blocks = [size for size in range(1, vectors + 1) if vectors % size == 0]
    if any(operator(sch, block) == "pack" for block in kernel.keep):
        blocks = [size for size in blocks if size * kernel.lanes % WORD == 0] or blocks
    rows = lead[-2] if len(lead) >= 3 else 1
    tile, block = choose_tile(
        rows, lead[-1], blocks, kernel.lanes, isa.registers(kernel.form), kernel.form
    )
    return tile, block * kernel.lanes


def _schedule_anchor(
    sch: Any, kernel: Kernel, tile: Tile, block_channels: int, isa: Isa, num_threads: int
) -> Any:
    """Tile and vectorise the anchor; return the loop of a tile."""
    anchor = kernel.anchor
    loops = sch.get_loops(anchor)
    spatial = len(sch.get(anchor).writes[0].source.shape)
    *lead, channel = loops[:spatial]
    reduction = loops[spatial:]
    block, outer, inner, lanes = sch.split(
        channel,
        [None, block_channels // (tile.vectors * kernel.lanes), tile.vectors, kernel.lanes],
    )
    column_tile, column = sch.split(lead[-1], [None, tile.columns])
    if len(lead) >= 3:
        row_tile, row = sch.split(lead[-2], [None, tile.rows])
        before, pixels = [*lead[:-2], row_tile], [row, column]
    else:
        before, pixels = lead[:-1], [column]
    unrolled = [*pixels, inner]
    sch.reorder(block, *before, column_tile, outer, *reduction, *unrolled, lanes)
    if num_threads > 1:
        sch.parallel(sch.fuse(block, *before))
    if kernel.bytes is None:
        _finish_reduction(sch, anchor, reduction, unrolled, lanes)
    else:
        sch.compute_at(kernel.bytes, reduction[-1], preserve_unit_loops=True)
        _finish_reduction(sch, anchor, reduction, unrolled, lanes)
        own = sch.get_loops(kernel.bytes)[-_axes(sch, kernel.bytes) :]
        chunk = own[spatial + len(reduction) :]
        lanes = own[spatial - 1]
        inner, lanes = sch.split(lanes, [tile.vectors, kernel.lanes])
        unrolled = [*own[spatial - 1 - len(pixels) : spatial - 1], inner]
        sch.reorder(*chunk, *unrolled, lanes)
        _finish_reduction(sch, kernel.bytes, chunk, unrolled, lanes)
    return column_tile


def _axes(sch: Any, block: Any) -> int:
    return len(sch.get(block).iter_vars)


def _finish_reduction(
    sch: Any, block: Any, reduction: list[Any], unrolled: list[Any], lanes: Any
) -> None:
    """Vectorise, unroll and take the initialisation out of the reduction loops."""
    sch.vectorize(lanes)
    for loop in unrolled:
        sch.unroll(loop)
    init = sch.decompose_reduction(block, reduction[0])
    *outer, last = sch.get_loops(init)
    sch.vectorize(last)
    for loop in outer[-len(unrolled) :]:
        sch.unroll(loop)


def _schedule_rows(sch: Any, block: Any) -> None:
    """Spread the bits of a word in one go."""
    loop = sch.get_loops(block)[-1]
    if int(sch.get(loop).extent) % ROWS_OF_A_WORD == 0:
        sch.vectorize(sch.split(loop, [None, ROWS_OF_A_WORD])[-1])


def _schedule_pad(sch: Any, block: Any) -> None:
    """Fill the padded image with its constant, then copy whole rows, if padding is constant."""
    otherwise = sch.get(block).body.value.args[2]
    if isinstance(otherwise, tirx.IntImm | tirx.FloatImm):
        sch.decompose_padding(block, sch.get_loops(block)[0])
        sch.fuse(*sch.get_loops(block)[-2:])


_PREPARE = {"pad": _schedule_pad, "rows": _schedule_rows}

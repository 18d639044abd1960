# SPDX-License-Identifier: Apache-2.0
"""The blocks behind an anchor: computed for the pixels of one tile, or after all tiles."""

from __future__ import annotations

from typing import Any, NamedTuple

from xnortvm._tvm import tvm
from xnortvm.schedules.blocks import Kernel, operator
from xnortvm.schedules.tiling import STACK_BYTES, WORD


def separate_output(sch: Any, kernel: Kernel) -> None:
    """Let an anchor that writes an output of the kernel accumulate elsewhere."""
    if _is_output(sch, kernel.anchor):
        kernel.keep.insert(0, kernel.anchor)
        kernel.anchor = sch.cache_write(kernel.anchor, 0, "global")
        kernel.keep[0], kernel.anchor = kernel.anchor, kernel.keep[0]


class EpilogueLoops(NamedTuple):
    """Where an epilogue can be computed.

    Attributes
    ----------
    tile : loop
        All channels of a block are finished for the pixels of a tile.
    vectors : loop or None
        `Tile.vectors` vectors of channels are, and still in registers.
    """

    tile: Any
    vectors: Any


def fits_stack(sch: Any, kernel: Kernel, elements: int) -> bool:
    """Return whether what is only packed fits the stack for a tile of so many elements."""
    return all(
        elements * int(dtype.bits) // 8 < STACK_BYTES
        for block in kernel.keep
        if operator(sch, block) != "pack" and not _is_output(sch, block)
        for dtype in [tvm.DataType(str(sch.get(block).writes[0].source.dtype))]
    )


def schedule_epilogue(
    sch: Any, kernel: Kernel, loops: EpilogueLoops, block_channels: int, lanes: int
) -> None:
    """Compute what is kept of the epilogue, where `block_channels` channels of a tile are done.

    Where sums are in registers, only packing waits for the other channels of the block.
    """
    for block in kernel.keep:
        is_pack = operator(sch, block) == "pack"
        if _packs_whole_words(sch, block, block_channels):
            if loops.vectors is None:
                _schedule_output(sch, block, loops.tile, lanes)
            elif is_pack:
                sch.reverse_compute_at(block, loops.tile, preserve_unit_loops=True)
            else:
                _schedule_vectors(sch, block, loops.vectors, lanes)
        elif not is_pack:  # after all tiles
            _vectorize(sch, block, lanes)


def _schedule_vectors(sch: Any, block: Any, loop: Any, lanes: int) -> None:
    """Compute a block for the pixels of a tile, unrolled, so that sums stay in registers."""
    sch.reverse_compute_at(block, loop, preserve_unit_loops=True)
    _vectorize(sch, block, lanes)
    loops = sch.get_loops(block)
    depth = next(i for i, each in enumerate(loops) if sch.get(each).same_as(sch.get(loop)))
    for pixel in loops[depth + 1 : -1]:
        sch.unroll(pixel)


def _packs_whole_words(sch: Any, block: Any, block_channels: int) -> bool:
    """Return whether a block of the epilogue needs no channels of another tile."""
    role = operator(sch, block)
    if role == "pack_pad":
        return False
    if role != "pack":
        return True
    sources = [operator(sch, producer) for producer in sch.get_producers(block)]
    return block_channels % WORD == 0 and "pack_pad" not in sources


def _schedule_output(sch: Any, block: Any, tile_loop: Any, lanes: int) -> None:
    """Compute a block of the epilogue for the pixels of one tile.

    What is only packed is computed a word at a time, so it stays in registers.
    """
    sch.reverse_compute_at(block, tile_loop, preserve_unit_loops=True)
    if operator(sch, block) == "pack":
        packed, *others = sch.get_producers(block)  # two: a reduction and its first values
        if not others and not _is_output(sch, packed) and len(sch.get_consumers(packed)) == 1:
            sch.compute_at(packed, sch.get_loops(block)[-1], preserve_unit_loops=True)
            _vectorize(sch, packed, lanes)
    elif _is_output(sch, block) or len(sch.get_consumers(block)) > 1:
        _vectorize(sch, block, lanes)


def _vectorize(sch: Any, block: Any, lanes: int) -> None:
    _, inner = sch.split(sch.get_loops(block)[-1], [None, lanes])
    sch.vectorize(inner)


def _is_output(sch: Any, block: Any) -> bool:
    outputs = sch.get_output_blocks(sch.get_sblock("root"))
    return str(sch.get(block).name_hint) in {str(sch.get(output).name_hint) for output in outputs}

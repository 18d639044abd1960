# SPDX-License-Identifier: Apache-2.0
"""The blocks behind an anchor: computed for the pixels of one tile, or after all tiles."""

from __future__ import annotations

from typing import Any

from xnortvm.schedules.blocks import Kernel, operator
from xnortvm.schedules.tiling import WORD


def separate_output(sch: Any, kernel: Kernel) -> None:
    """Let an anchor that writes an output of the kernel accumulate elsewhere."""
    if _is_output(sch, kernel.anchor):
        kernel.keep.insert(0, kernel.anchor)
        kernel.anchor = sch.cache_write(kernel.anchor, 0, "global")
        kernel.keep[0], kernel.anchor = kernel.anchor, kernel.keep[0]


def schedule_epilogue(
    sch: Any, kernel: Kernel, tile_loop: Any, block_channels: int, lanes: int
) -> None:
    """Compute what is kept of the epilogue, where `block_channels` channels of a tile are done."""
    for block in kernel.keep:
        if _packs_whole_words(sch, block, block_channels):
            _schedule_output(sch, block, tile_loop, lanes)
        elif operator(sch, block) != "pack":  # after all tiles
            _vectorize(sch, block, lanes)


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

# SPDX-License-Identifier: Apache-2.0
"""The rule for float convolutions by Winograd's method, with their epilogues.

The skeleton, outside in::

    image                           once: padded, columns sorted
    image of the batch, row of tiles    parallel
      rows, points                  the input transform of one row of tiles
      block of output channels      one word of bits
        group of tiles
          one vector of channels
            row of points           product and `across`: one row of points stays in the first
                                    level cache
            tiles                   the output transform
          each output of the kernel the epilogue of these tiles

One vector of channels at a time: the intermediate results of fourteen tiles are then 20 KB and stay
in the first level cache (two vectors: 0.93 ms instead of 0.77 for F(4×4) of ResNet-18's stem).

Measured on one core of a 2-core AMD Zen 4 virtual machine at 3.69 GHz (AVX-512), with ReLU, beside
the exact kernel, which runs at 86 to 97 % of the FMA limit of 59.1 GMAC/s. ResNet-18's stem needs
429 products for a tile of 3×4 pixels, 0.49 ms at that limit; 58 % of its time goes into them.

===========================  ========  =========  ==============
layer                        tile      µs here    µs exact
===========================  ========  =========  ==============
7×7 3→64 s2, 224×224         3×4       838        2048
the same, one channel        4×3       449        686
11×11 3→64 s4, 224×224       4×4       514        1221
5×5 3→32 s2, 224×224         4×4       351        539
3×3 3→64, 224×224            4×4       1183       1703
3×3 3→64, 32×32              4×4       23         33
3×3 3→32 s2, 224×224         exact     (271)      216
===========================  ========  =========  ==============
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xnortvm.schedules.blocks import Kernel, operator, read_kernel
from xnortvm.schedules.decisions import Decisions
from xnortvm.schedules.epilogue import EpilogueLoops, schedule_epilogue, separate_output
from xnortvm.schedules.isa import Isa
from xnortvm.schedules.tiling import WORD


def schedule_winograd(
    sch: Any, isa: Isa, num_threads: int, _wanted: Decisions | None = None
) -> str | None:
    """Schedule a kernel with a Winograd anchor by the rule; None when it has another form."""
    kernel = read_kernel(sch)
    if kernel is None:
        return None
    marks = sch.get(kernel.anchor).annotations
    sizes, places = [int(size) for size in marks["xnortvm.tile"]], int(marks["xnortvm.places"])
    for block in kernel.inline:
        sch.compute_inline(block)
    _join_output(sch, kernel, isa)
    steps: dict[str, list[Any]] = {}
    for block in kernel.steps:
        steps.setdefault(operator(sch, block).partition(".")[2], []).append(block)
    loops = _schedule_output(sch, kernel, sizes, isa)
    if num_threads > 1:  # before the other steps are put into the loop
        sch.parallel(loops.row)
    for across in reversed(steps["across"]):  # readers first: each is placed at its reader
        row_of_points = _schedule_across(sch, across, loops.vector, isa)
        for product in reversed(steps["product"]):
            if _name(sch, across) in {_name(sch, b) for b in sch.get_consumers(product)}:
                _schedule_product(sch, product, row_of_points, isa)
    (image,), (rows,), (points,) = steps["image"], steps["rows"], steps["points"]
    _schedule_points(sch, points, loops.row)
    _schedule_rows(sch, rows, loops.row)
    _schedule_image(sch, kernel.before, image, places, num_threads)
    schedule_epilogue(sch, kernel, EpilogueLoops(loops.group, None), loops.channels, isa.lanes)
    return "rule"


class _Loops(NamedTuple):
    """Where the steps are computed: a row of tiles, a group of them, one vector of that."""

    row: Any
    group: Any
    vector: Any
    channels: int


def _name(sch: Any, block: Any) -> str:
    return str(sch.get(block).name_hint)


def _join_output(sch: Any, kernel: Kernel, isa: Isa) -> None:
    """Compute the output transform where its only reader is, when that is whole vectors."""
    if not kernel.keep:
        return  # it writes the output itself
    readers = [_name(sch, block) for block in sch.get_consumers(kernel.anchor)]
    first = kernel.keep[0]
    if readers != [_name(sch, first)] or operator(sch, first).startswith("pack"):
        separate_output(sch, kernel)
        return
    *_, channels = (int(dim) for dim in sch.get(first).writes[0].source.shape)
    if channels % isa.lanes == 0:
        sch.compute_inline(kernel.anchor)
        kernel.anchor = kernel.keep.pop(0)
    else:
        separate_output(sch, kernel)


def _schedule_output(sch: Any, kernel: Kernel, sizes: list[int], isa: Isa) -> _Loops:
    tile_rows, tile_columns, group = sizes
    image, y, x, channel = sch.get_loops(kernel.anchor)
    vectors = int(sch.get(channel).extent) // isa.lanes
    word = WORD // isa.lanes
    together = word if vectors % word == 0 else 1
    row, inner_y = sch.split(y, [None, tile_rows])
    groups, tile, inner_x = sch.split(x, [None, group, tile_columns])
    block, vector, lanes = sch.split(channel, [None, together, isa.lanes])
    sch.reorder(image, row, block, groups, vector, tile, inner_y, inner_x, lanes)
    sch.vectorize(lanes)
    sch.unroll(inner_y)
    sch.unroll(inner_x)
    return _Loops(row, groups, vector, together * isa.lanes)


def _schedule_across(sch: Any, across: Any, vector: Any, isa: Isa) -> Any:
    """Return the loop over the rows of points."""
    sch.compute_at(across, vector, preserve_unit_loops=True)
    *_, tile, row, column, channel = sch.get_loops(across)
    outer, lanes = sch.split(channel, [None, isa.lanes])
    sch.reorder(row, tile, outer, column, lanes)
    sch.vectorize(lanes)
    sch.unroll(column)
    return row


def _schedule_product(sch: Any, product: Any, row_of_points: Any, isa: Isa) -> None:
    sch.compute_at(product, row_of_points, preserve_unit_loops=True)
    *_, tile, row, column, channel, p, q, c = sch.get_loops(product)
    outer, lanes = sch.split(channel, [None, isa.lanes])
    sch.reorder(row, column, outer, p, q, c, tile, lanes)
    sch.vectorize(lanes)
    sch.unroll(tile)
    init = sch.decompose_reduction(product, p)
    *_, tile, lanes = sch.get_loops(init)
    sch.vectorize(lanes)
    sch.unroll(tile)


def _schedule_points(sch: Any, points: Any, at: Any) -> None:
    """One vector of tiles: all points of a row of points, from the same few loads."""
    sch.compute_at(points, at, preserve_unit_loops=True)
    *_, row, column, p, q, channel, vector, lanes = sch.get_loops(points)
    sch.reorder(row, p, channel, vector, q, column, lanes)
    sch.vectorize(lanes)
    sch.unroll(column)
    sch.unroll(q)


def _schedule_rows(sch: Any, rows: Any, at: Any) -> None:
    sch.compute_at(rows, at, preserve_unit_loops=True)
    *_, row, vector, lanes = sch.get_loops(rows)
    sch.reorder(vector, row, lanes)
    sch.vectorize(lanes)
    sch.unroll(row)


def _schedule_image(sch: Any, pads: list[Any], image: Any, places: int, num_threads: int) -> None:
    """Sort a row by vectors of neighbours; pad it just before, in the first level cache."""
    images, channel, row, vector, lanes = sch.get_loops(image)
    flat = sch.fuse(vector, lanes)
    place, tile = sch.split(flat, [places, None])
    sch.reorder(tile, place)
    sch.vectorize(place)
    for pad in pads:
        sch.compute_at(pad, row)
        sch.decompose_padding(pad, sch.get_loops(pad)[3])
    if num_threads > 1:
        sch.parallel(sch.fuse(images, channel, row))

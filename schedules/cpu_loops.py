# SPDX-License-Identifier: Apache-2.0
"""Loop nests of single blocks on a CPU: what `cpu_default` applies to each block of a kernel.

Where an axis divides into vectors it is vectorised here. Where it does not, the loops are left
serial in an order that LLVM's own vectoriser likes: a predicated vector loop would be taken apart
into scalars (measured: max-pool of 33 channels 118 µs predicated, 14 µs serial).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from xnortvm._tvm import ScheduleError, tirx, tvm, tvm_ffi
from xnortvm.schedules.blocks import WORDS, operator

# Windows up to this many taps are unrolled, so that a vector of the result stays in a register.
MAX_TAPS = 25
# A last axis of at most this many elements (images of 3 channels) is unrolled; LLVM then
# vectorises the loop around it with interleaved loads and stores.
MAX_UNROLLED = 8
# Vectors of partial sums that hide the latency of additions.
CHAINS = 4
# Side of the squares that transposes move.
SQUARE = 8

_REALIZE = tvm_ffi.get_global_func("s_tir.schedule.GetSBlockRealize")


class Index(NamedTuple):
    """One dimension of an access: its axes, its constant distance from one axis, its size."""

    axes: frozenset[int]
    offset: int | None
    size: int


class Facts(NamedTuple):
    """What the nests need to know of a block.

    Attributes
    ----------
    spatial, reduction : tuple of int
        Positions of the axes of each kind.
    extents : tuple of int
        One per axis.
    bits : int
        Of the widest element that is read or written.
    reads, writes : tuple of tuple of Index
        For each access, its dimensions.
    """

    spatial: tuple[int, ...]
    reduction: tuple[int, ...]
    extents: tuple[int, ...]
    bits: int
    reads: tuple[tuple[Index, ...], ...]
    writes: tuple[tuple[Index, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the spatial axes."""
        return tuple(self.extents[axis] for axis in self.spatial)

    @property
    def last(self) -> int:
        """Extent of the last spatial axis, 1 without any."""
        return self.shape[-1] if self.spatial else 1

    @property
    def taps(self) -> int:
        """Product of the extents of the reduction axes."""
        return math.prod(self.extents[axis] for axis in self.reduction)

    @property
    def reduces_rows(self) -> bool:
        """Whether the contiguous axis of the largest read is summed up."""
        last = max(self.reads, key=len, default=())[-1:]
        return bool(last) and bool(last[0].axes & set(self.reduction))


def facts_of(sch: Any, block: Any) -> Facts:
    """Read the facts of a block."""
    node = sch.get(block)
    axes = [axis.var for axis in node.iter_vars]
    kinds = [int(axis.iter_type) == tirx.IterVar.CommReduce for axis in node.iter_vars]
    widths = [_bits(region.source) for region in (*node.reads, *node.writes)]
    return Facts(
        tuple(i for i, reduces in enumerate(kinds) if not reduces),
        tuple(i for i, reduces in enumerate(kinds) if reduces),
        tuple(int(axis.dom.extent) for axis in node.iter_vars),
        max(widths, default=32),
        *(
            tuple(
                tuple(
                    _index(dim.min, int(size), axes)
                    for dim, size in zip(region.region, region.source.shape, strict=True)
                )
                for region in regions
            )
            for regions in (node.reads, node.writes)
        ),
    )


def _bits(buffer: Any) -> int:
    return int(tvm.DataType(str(buffer.dtype)).bits)


def _index(expr: Any, size: int, axes: Sequence[Any]) -> Index:
    used = tirx.analysis.undefined_vars(expr)
    found = [i for i, axis in enumerate(axes) if any(axis.same_as(var) for var in used)]
    offset = None
    if len(found) == 1:
        difference = tvm.sym.Analyzer().simplify(expr - axes[found[0]])
        offset = int(difference) if isinstance(difference, tirx.IntImm) else None
    return Index(frozenset(found), offset, size)


def lanes_of(facts: Facts, vector_bits: int) -> int:
    """Return how many elements of the block fit a vector."""
    return max(vector_bits // max(facts.bits, 8), 1)


def vectorize(sch: Any, loop: Any, lanes: int) -> bool:
    """Vectorise a loop whose extent is a multiple of the lanes; say whether it was."""
    extent = extent_of(sch, loop)
    if extent % lanes or lanes == 1:
        return False
    if extent > lanes:
        loop = sch.split(loop, [None, lanes])[-1]
    sch.vectorize(loop)
    return True


def extent_of(sch: Any, loop: Any) -> int:
    """Return the extent of a loop."""
    return int(sch.get(loop).extent)


def injective(sch: Any, block: Any, depth: int, vector_bits: int) -> None:
    """Vectorise the innermost axis of a block without reductions.

    Parameters
    ----------
    depth : int
        Loops outside, which belong to a shared nest and are left alone.
    """
    facts = facts_of(sch, block)
    loops = sch.get_loops(block)
    if len(loops) == depth:
        return
    if operator(sch, block) == "pack":  # one word is straight-line code on vectors already
        together = math.gcd(extent_of(sch, loops[-1]), words_at_once(sch, block))
        vectorize(sch, loops[-1], together)
        return
    lanes = lanes_of(facts, vector_bits)
    whole = depth == 0 and len(loops) == len(facts.extents)
    if whole and _transpose(sch, loops, facts, lanes):
        return
    if all(_aligned(index, facts, lanes) for index in facts.reads) and vectorize(
        sch, loops[-1], lanes
    ):
        return
    flat = _flat_axes(facts) if whole else 0
    if flat > 1:
        vectorize(sch, sch.fuse(*loops[-flat:]), lanes)
    elif extent_of(sch, loops[-1]) <= MAX_UNROLLED and len(loops) > depth + 1:
        sch.unroll(loops[-1])
    elif extent_of(sch, loops[-1]) > lanes:
        _vectors_and_rest(sch, block, loops[-1], lanes)


def words_at_once(sch: Any, pack: Any) -> int:
    """Return how many words a pack can make at once."""
    return int(sch.get(pack).annotations.get(WORDS, 1))


def _aligned(read: Sequence[Index], facts: Facts, lanes: int) -> bool:
    """Whether no vector of this read crosses the border of a joined or padded tensor."""
    last = facts.spatial[-1] if facts.spatial else -1
    return all(
        last not in dim.axes
        or not ((dim.offset or 0) % lanes or (dim.size < facts.last and dim.size % lanes))
        for dim in read
    )


def _flat_axes(facts: Facts) -> int:
    """Return how many trailing axes all accesses walk through in the same way."""
    rank = len(facts.extents)
    count = rank
    for access in (*facts.reads, *facts.writes):
        used = frozenset().union(*(dim.axes for dim in access)) if access else frozenset()
        if not used:
            continue
        same = 0
        while (
            same < min(rank, len(access))
            and access[-1 - same].offset == 0
            and access[-1 - same].axes == {rank - 1 - same}
        ):
            same += 1
        count = min(count, same)
    return count


def _vectors_and_rest(sch: Any, block: Any, loop: Any, lanes: int) -> None:
    """Cut a loop into whole vectors and a rest (33 channels: 44 µs serial, 13 µs cut)."""
    extent = extent_of(sch, loop)
    name = str(sch.get(block).name_hint)
    with contextlib.suppress(ScheduleError):
        sch.loop_partition(loop, [extent // lanes * lanes, None])
        for part in _leaves(sch, sch.get_sblock("root")):
            if str(sch.get(part).name_hint).startswith(name):
                inner = sch.get_loops(part)[-1]
                if extent_of(sch, inner) == extent // lanes * lanes:
                    vectorize(sch, inner, lanes)


def _leaves(sch: Any, block: Any) -> list[Any]:
    children = sch.get_child_blocks(block)
    return [leaf for child in children for leaf in _leaves(sch, child)] or [block]


def _transpose(sch: Any, loops: Sequence[Any], facts: Facts, lanes: int) -> bool:
    """Move squares: vector loads along the axis that is contiguous in the source.

    64×56×56 floats on one Zen 3 core: to NCHW 33 µs (plain loops 192), to NHWC 46 (45).
    """
    last = facts.spatial[-1]
    for read in facts.reads:
        if len(read) < 2 or len(read[-1].axes) != 1 or read[-1].offset != 0:
            continue
        (source,) = read[-1].axes
        crosses = source != last and any(last in dim.axes for dim in read[:-1])
        if not crosses or facts.last <= MAX_UNROLLED:
            continue
        side = min(lanes, SQUARE)
        if facts.last % SQUARE or facts.extents[source] % side:
            return False
        source_outer, source_inner = sch.split(loops[source], [None, side])
        last_outer, last_inner = sch.split(loops[last], [None, SQUARE])
        others = [loops[axis] for axis in facts.spatial if axis not in (source, last)]
        sch.reorder(*others, source_outer, last_outer, last_inner, source_inner)
        sch.vectorize(source_inner)
        return True
    return False


def split_rows(sch: Any, block: Any, vector_bits: int) -> bool:
    """Give a sum over the contiguous axis one partial sum per lane; say whether that was done.

    56×56 rows of 256 floats on one Zen 3 core: 47 µs, plain loops 569 µs.
    """
    facts = facts_of(sch, block)
    lanes = lanes_of(facts, vector_bits)
    if not facts.reduces_rows or facts.taps < 4 * lanes:
        return False
    _, taps = _loops_by_kind(sch, block, 0)
    rows = math.prod(facts.shape)
    wanted = (lanes,) if rows > 1 else (lanes * CHAINS, lanes)
    factor = next((count for count in wanted if facts.taps % count == 0), None)
    if factor is None:
        return False
    fused = sch.fuse(*taps) if len(taps) > 1 else taps[0]
    inner = sch.split(fused, [None, factor])[-1]
    partial = sch.rfactor(inner, len(facts.spatial))
    # `rfactor` puts the new axis first; rows, then lanes, then steps is the order of definitions.
    _spatial_first(sch, partial)
    _spatial_first(sch, block)
    *outer, step, lane = sch.get_loops(partial)
    sch.reorder(*outer, lane, step)
    return True


def _spatial_first(sch: Any, block: Any) -> None:
    """Order the axes of a block as TE does, the axis that `rfactor` made last among its kind."""
    facts = facts_of(sch, block)
    made = [axis for axis in facts.spatial if axis == 0 and facts.spatial[0] == 0]
    rows = [axis for axis in facts.spatial if axis not in made]
    sch.reorder_block_iter_var(block, [*rows, *made, *facts.reduction])


def _loops_by_kind(sch: Any, block: Any, depth: int) -> tuple[list[Any], list[Any]]:
    """Return the loops inside `depth` that walk spatial axes, and those that walk reductions."""
    node, bound = sch.get(block), _REALIZE(sch, block).iter_values
    used = [
        var
        for axis, value in zip(node.iter_vars, bound, strict=True)
        if int(axis.iter_type) == tirx.IterVar.CommReduce
        for var in tirx.analysis.undefined_vars(value)
    ]
    spatial: list[Any] = []
    taps: list[Any] = []
    for loop in sch.get_loops(block)[depth:]:
        variable = sch.get(loop).loop_var
        (taps if any(variable.same_as(var) for var in used) else spatial).append(loop)
    return spatial, taps


def reduction(sch: Any, block: Any, vector_bits: int, depth: int = 0) -> None:
    """Arrange a reduction whose last spatial axis is contiguous.

    A few vectors of that axis stay in registers while the window or the map is walked through.
    On one Zen 3 core: 3×3 max-pool of 112×112×64 floats 61 µs, which is the speed of
    the third-level cache (plain loops 159); mean of 56×56×64 10 µs (220).
    """
    facts = facts_of(sch, block)
    spatial, taps = _loops_by_kind(sch, block, depth)
    if not spatial or not taps:
        return
    lanes = lanes_of(facts, vector_bits)
    channels = spatial[-1]
    extent = extent_of(sch, channels)
    small = facts.taps <= MAX_TAPS
    if small:
        for tap in taps:
            sch.unroll(tap)
    if extent % lanes or lanes == 1:
        if not small:
            sch.reorder(*taps, channels)
            sch.decompose_reduction(block, taps[0])
        return
    width = 1 if small else max(w for w in range(1, CHAINS + 1) if (extent // lanes) % w == 0)
    chunk, vectors, lane = sch.split(channels, [None, width, lanes])
    sch.reorder(chunk, *taps, vectors, lane)
    _unroll_and_vectorize(sch, block, taps[0], vectors, lane)


def convolution(sch: Any, block: Any, vector_bits: int, pixels: int) -> None:
    """Arrange a grouped or depthwise convolution: a row of pixels × one vector of channels.

    Parameters
    ----------
    pixels : int
        Accumulators that the register file holds.
    """
    facts = facts_of(sch, block)
    spatial, taps = _loops_by_kind(sch, block, 0)
    lanes = lanes_of(facts, vector_bits)
    if len(spatial) < 2 or not taps or extent_of(sch, spatial[-1]) % lanes:
        reduction(sch, block, vector_bits)
        return
    *outer, column, channel = spatial
    width = extent_of(sch, column)
    row = max(count for count in range(1, pixels + 1) if width % count == 0)
    column, pixel = sch.split(column, [None, row])
    channel, lane = sch.split(channel, [None, lanes])
    sch.reorder(*outer, column, channel, *taps, pixel, lane)
    _unroll_and_vectorize(sch, block, taps[0], pixel, lane)


def _unroll_and_vectorize(sch: Any, block: Any, first_tap: Any, unrolled: Any, lane: Any) -> None:
    """Finish the two innermost loops of a reduction, in its initialisation as well."""
    sch.vectorize(lane)
    sch.unroll(unrolled)
    init = sch.decompose_reduction(block, first_tap)
    *_, unrolled, lane = sch.get_loops(init)
    sch.vectorize(lane)
    sch.unroll(unrolled)

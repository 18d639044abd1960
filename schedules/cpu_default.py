# SPDX-License-Identifier: Apache-2.0
"""Schedule of every kernel without a convolution or dense anchor on a CPU.

Elementwise blocks disappear into their readers; what is left (outputs, reductions, what is packed)
is computed row by row in one nest where the shapes allow, so that a pooled or added row is still
in the first-level cache when its bits are packed. `cpu_loops` holds the nests.

Microseconds on one core of an AMD Zen 3 (AVX2), best of 150 runs, against the unscheduled function;
what is not marked is limited by the caches (800 KB a tensor, 25 to 50 GB/s):

========================================  =====  ====  ==================================
kernel, float NHWC unless said            plain  here  limited by
========================================  =====  ====  ==================================
(x + y) · b + b, relu, 56×56×64              98    33
x + b, relu, 56×56×33                        25    11  vectors cut off at 33
max-pool 3×3/2, 112×112×64                  177    67
the same, its bits packed as well           188    81
mean over 56×56, 64 channels                195    12
mean over the last axis, 56×56×256          569    48
softmax, 64 rows of 1000                    244   178  scalar exp
image to NHWC, 3×224×224                     18    19
64×56×56 to NHWC                             47    43
56×56×64 to NCHW                            203    44
join 64 and 32 channels, 56×56              131    30
sign bits, 56×56×64                          15    16
threshold bits, 56×56×512 int32             398   148
add and bits, 56×56×64                       68    35
grouped conv 3×3, 28×28×64, 4 groups      10904   179  arithmetic
depthwise conv 3×3, 56×56×64                116    73
========================================  =====  ====  ==================================
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from xnortvm._tvm import Schedule, tirx
from xnortvm.schedules import cpu_loops as nests
from xnortvm.schedules.blocks import is_reduction, operator

if TYPE_CHECKING:
    from xnortvm.schedules.isa import Isa

_log = logging.getLogger("xnortvm")

# Elements per kernel below which waking a second thread costs more than it brings.
MIN_PARALLEL = 1 << 15
# Words packed together where the values to be packed are no output: 4 words are 128 values, which
# stay on the stack.
PACK_CHUNK = 4
# Pieces of work per thread: the last one to finish then costs little.
PIECES = 4
_CONVOLUTIONS = ("conv2d", "dense")


def schedule(func: tirx.PrimFunc, isa: Isa, num_threads: int) -> tirx.PrimFunc:
    """Return the function with fast loops; the function itself when nothing applies.

    Parameters
    ----------
    func : PrimFunc
        Blocks as they come from TE: one loop per axis.
    isa : Isa
        The vector length is taken from it.
    num_threads : int
        Outer loops run in parallel above 1.

    Returns
    -------
    PrimFunc
        Computes the same; sums over the contiguous axis are added in another order.
    """
    for attempt in _ATTEMPTS:
        sch = Schedule(func)
        try:
            attempt(sch, isa, num_threads)
        except Exception as error:  # a schedule never decides whether a model compiles
            first = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            _log.debug("%s does not apply: %s", getattr(attempt, "__name__", attempt), first)
            continue
        return sch.mod["main"]
    return func


def _nested(sch: Any, isa: Isa, num_threads: int) -> None:
    """Inline, group blocks that walk through the same rows, arrange each group."""
    _inline(sch)
    for block in _blocks(sch):
        if is_reduction(sch, block) and operator(sch, block) not in _CONVOLUTIONS:
            nests.split_rows(sch, block, isa.vector_bits)
    feeders = [block for block in _blocks(sch) if _feeds_pack(sch, block)]
    names = {_name(sch, block) for block in feeders}
    groups: list[list[Any]] = []
    for block in _blocks(sch):
        if _name(sch, block) in names:
            continue
        if groups and not _widens(sch, block) and _follows(sch, groups[-1], block, names):
            groups[-1].append(block)
        else:
            groups.append([block])
    for group in groups:
        _arrange(sch, group, isa, num_threads)


def _each_alone(sch: Any, isa: Isa, num_threads: int) -> None:
    """Inline and arrange every block in its own nest."""
    _inline(sch)
    for block in _blocks(sch):
        _arrange(sch, [block], isa, num_threads)


def _inlined(sch: Any, _isa: Isa, _num_threads: int) -> None:
    """Only inline and leave the loops to LLVM."""
    _inline(sch)


_ATTEMPTS: tuple[Callable[[Any, Isa, int], None], ...] = (_nested, _each_alone, _inlined)


def _blocks(sch: Any) -> list[Any]:
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def _name(sch: Any, block: Any) -> str:
    return str(sch.get(block).name_hint)


def _outputs(sch: Any) -> set[str]:
    return {_name(sch, block) for block in sch.get_output_blocks(sch.get_sblock("root"))}


def _inline(sch: Any) -> None:
    """Compute elementwise blocks where they are read, except what a pack or a convolution reads."""
    outputs = _outputs(sch)
    for block in _blocks(sch):
        readers = sch.get_consumers(block)
        keeps = (
            _name(sch, block) in outputs
            or is_reduction(sch, block)
            or not readers
            or (len(readers) > 1 and not _only_moves(sch, block))
            or any(not _may_inline_into(sch, block, reader) for reader in readers)
        )
        if not keeps:
            sch.compute_inline(block)


def _may_inline_into(sch: Any, block: Any, reader: Any) -> bool:
    if operator(sch, reader) == "pack" or operator(sch, reader) in _CONVOLUTIONS:
        return False
    # A reduction reads an element once for each window over it: repeating a copy is cheaper than
    # storing it, repeating arithmetic is not.
    facts = nests.facts_of(sch, reader)
    overlaps = math.prod(facts.extents) > math.prod(nests.facts_of(sch, block).extents)
    return not is_reduction(sch, reader) or not overlaps or _only_moves(sch, block)


def _only_moves(sch: Any, block: Any) -> bool:
    """Whether a block copies, pads, slices or joins and does no arithmetic."""
    value = sch.get(block).body.value
    called = str(getattr(getattr(value, "op", None), "name", ""))
    return hasattr(value, "indices") or called.endswith("if_then_else")


def _feeds_pack(sch: Any, block: Any) -> bool:
    """Whether a block only prepares what a pack reads."""
    readers = sch.get_consumers(block)
    return (
        bool(readers)
        and not is_reduction(sch, block)
        and _name(sch, block) not in _outputs(sch)
        and all(operator(sch, reader) == "pack" for reader in readers)
    )


def _follows(sch: Any, group: Sequence[Any], block: Any, feeders: set[str]) -> bool:
    """Whether a block can be computed in the nest of a group: rows and all it reads are there.

    Not where it slides a window over them: TVM loses loops of a window that is moved.
    """
    here = {_name(sch, member) for member in group} | feeders
    read = {_name(sch, producer) for producer in sch.get_producers(block)}
    facts = nests.facts_of(sch, block)
    slides = any(
        len(dim.axes) > 1 and not dim.axes.isdisjoint(facts.reduction)
        for access in facts.reads
        for dim in access
    )
    return read <= here and not slides and _shared_axes(sch, group[0], block) > 0


def _widens(sch: Any, block: Any) -> bool:
    """Whether a pack reads a padded copy: TVM's reverse_compute_at would cut the padding off."""
    return any(operator(sch, feeder) == "pack_pad" for feeder in sch.get_producers(block))


def _shared_axes(sch: Any, first: Any, block: Any) -> int:
    """Return how many outer axes two blocks have in common, 0 when they do not belong together."""
    one, other = nests.facts_of(sch, first), nests.facts_of(sch, block)
    if operator(sch, first) in _CONVOLUTIONS:
        return 0
    common = 0
    for ours, theirs in zip(one.shape, other.shape, strict=False):
        if ours != theirs:
            break
        common += 1
    common = min(
        common, len(one.shape) - (not _is_row(one)), len(other.shape) - (not _is_row(other))
    )
    return common if math.prod(one.shape[:common]) > 1 else 0


def _is_row(facts: nests.Facts) -> bool:
    """Whether one point of the spatial axes is a whole row of what is read."""
    return bool(facts.reduction) and facts.reduces_rows


def _arrange(sch: Any, group: list[Any], isa: Isa, num_threads: int) -> None:
    """Put a group of blocks into the nest of its first block and vectorise all of them."""
    first, *rest = group
    bits = isa.vector_bits
    facts = nests.facts_of(sch, first)
    parallel = num_threads > 1 and math.prod(facts.extents) >= MIN_PARALLEL
    depth = min((_shared_axes(sch, first, block) for block in rest), default=0)
    loops = sch.get_loops(first)
    for block in rest:
        for feeder in sch.get_producers(block):
            if operator(sch, block) == "pack" and _feeds_pack(sch, feeder):
                sch.reverse_compute_at(feeder, loops[depth - 1])
        sch.reverse_compute_at(block, loops[depth - 1])
    # Only whole reductions can be parallel, so this comes before they are taken apart; the loops
    # of a lonely injective block may be tiled, so there it comes after.
    early = bool(rest) or is_reduction(sch, first)
    spared = 2 if operator(sch, first) in _CONVOLUTIONS else 1
    outer = loops[: depth or max(len(facts.spatial) - spared, 0)]
    if parallel and early:
        fused = _parallel(sch, outer, num_threads)
        depth -= fused if depth else 0
    for block in group:
        if operator(sch, block) in _CONVOLUTIONS:
            nests.convolution(sch, block, bits, isa.vector_registers // 2)
        elif is_reduction(sch, block):
            nests.reduction(sch, block, bits, depth)
        elif operator(sch, block) == "pack":
            _pack(sch, block, bits, depth)
        else:
            nests.injective(sch, block, depth, bits)
    if parallel and not early:
        _parallel(sch, outer, num_threads)


def _pack(sch: Any, pack: Any, bits: int, depth: int) -> None:
    """Compute what a pack reads, if it is no output, a few words ahead of the pack."""
    feeders = [block for block in sch.get_producers(pack) if _feeds_pack(sch, block)]
    loops = sch.get_loops(pack)
    if len(loops) == depth:
        return
    if not feeders:
        nests.injective(sch, pack, depth, bits)
        return
    words = nests.extent_of(sch, loops[-1])
    chunk = max(count for count in range(1, PACK_CHUNK + 1) if words % count == 0)
    at, inner = sch.split(loops[-1], [None, chunk])
    nests.vectorize(sch, inner, math.gcd(chunk, nests.words_at_once(sch, pack)))
    for feeder in feeders:
        sch.compute_at(feeder, at)
        nests.injective(sch, feeder, len(loops), bits)


def _parallel(sch: Any, outer: Sequence[Any], num_threads: int) -> int:
    """Run outer loops in parallel, as few as give every thread several pieces.

    Returns
    -------
    int
        How many loops fewer there are now.
    """
    chosen: list[Any] = []
    pieces = 1
    for loop in outer:
        if pieces >= PIECES * num_threads or not _is_there(sch, loop):
            break
        chosen.append(loop)
        pieces *= nests.extent_of(sch, loop)
    if pieces == 1:
        return 0
    sch.parallel(sch.fuse(*chosen) if len(chosen) > 1 else chosen[0])
    return len(chosen) - 1


def _is_there(sch: Any, loop: Any) -> bool:
    try:
        return sch.get(loop) is not None
    except Exception:  # the loop was split or fused
        return False

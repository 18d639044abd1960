# SPDX-License-Identifier: Apache-2.0
"""Dense layers of few rows: each weight is read once, by neighbouring lanes, and little else is.

A block computes 32 neighbouring channels of one row, so a packed word is a ballot of its first
warp. Each warp adds up four channels at a time, its lanes along the inputs; the lanes' partial sums
meet in shared memory, whose rows of 33 keep them apart.
"""

from __future__ import annotations

from typing import Any

from xnortvm._tvm import tirx
from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda import builder as b
from xnortvm.schedules.cuda.epilogue import (
    Anchor,
    Epilogue,
    NotElementwiseError,
    read_anchor,
    read_epilogue,
)
from xnortvm.schedules.cuda.lanes import Lanes, lanes_of, write

#: Warps of a block, and channels of each.
WARPS = 8
TOGETHER = b.WARP // WARPS
#: Rows up to which reading weights once for each row costs less than tiles that are mostly empty.
MOST_ROWS = 4


def takes(anchor: Anchor | None) -> bool:
    """Whether the layer is a product with so few rows that its time is that of its weights."""
    problem = None if anchor is None else anchor.problem or anchor.floats
    if anchor is None or problem is None or len(anchor.operands) != 2:
        return False
    alone = problem.taps == 1 and problem.groups == 1 and not any(problem.padding)
    return alone and problem.map == (1, 1) and problem.images <= MOST_ROWS


def gemv(func: Any, _arch: str = "") -> Any:
    """Return the kernel of a function whose anchor it `takes`, with 32-bit indices.

    Raises
    ------
    NotElementwiseError
        When the epilogue is none of elements.
    """
    anchor, epilogue = read_anchor(func), read_epilogue(func)
    problem = anchor.problem or anchor.floats
    if problem is None or not epilogue.outputs:
        raise NotElementwiseError("the sum is not a plain one")
    lanes = lanes_of(epilogue.outputs)
    if lanes.channels != problem.outputs:
        raise NotElementwiseError("the outputs have other channels than the sum")
    return b.kernel(func, _launch(problem, lanes, epilogue, anchor.operands))


def _launch(problem: Problem, lanes: Lanes, epilogue: Epilogue, operands: list[Any]) -> Any:
    inputs, weights = operands
    dtype = "int32" if problem.packed else "float32"
    row, by, warp, lane = (tirx.Var(name, "int32") for name in ("row", "by", "warp", "lane"))
    sums = b.registers("sums", (TOGETHER,), dtype)
    total = b.registers("total", (1,), dtype)
    partial = b.shared("partial", (b.WARP, b.WARP + 1), dtype)
    blocks = -(-lanes.count // b.WARP)
    zero = tirx.const(0, dtype)

    def own(j: int) -> tuple[Any, Any]:
        place = by * b.const(b.WARP) + warp * b.const(TOGETHER) + b.const(j)
        return lanes.channel(place, blocks * b.WARP)

    def step(number: Any) -> Any:
        word = number * b.const(b.WARP) + lane
        middle = (b.const(0), b.const(0)) if problem.rank == 4 else ()
        value = b.load(inputs, row, *middle, word)
        added = []
        for j in range(TOGETHER):
            channel, valid = own(j)
            term = _term(problem, value, weights, (channel, *middle), word)
            if valid is not None:
                term = tirx.if_then_else(valid, term, zero)
            added.append(b.store(sums, b.load(sums, b.const(j)) + term, b.const(j)))
        whole = problem.words % b.WARP == 0
        return b.when(None if whole else word < b.const(problem.words), b.block(*added))

    place = by * b.const(b.WARP) + lane
    channel, valid = lanes.channel(place, blocks * b.WARP)
    first = b.const(0)
    add_up = b.loop(
        "part",
        b.WARP,
        lambda part: b.store(total, b.load(total, first) + b.load(partial, lane, part), first),
    )
    index = (row, b.const(0), b.const(0), channel)
    results = [
        write(output, b.load(total, first), index, place, valid) for output in epilogue.outputs
    ]
    return b.launch(
        [
            ("blockIdx.x", blocks, by),
            ("blockIdx.y", problem.images, row),
            ("threadIdx.y", WARPS, warp),
            ("threadIdx.x", b.WARP, lane),
        ],
        [sums, total, partial],
        *(b.store(sums, zero, b.const(j)) for j in range(TOGETHER)),
        b.loop("step", -(-problem.words // b.WARP), step),
        *(
            b.store(partial, b.load(sums, b.const(j)), warp * b.const(TOGETHER) + b.const(j), lane)
            for j in range(TOGETHER)
        ),
        b.barrier(),
        b.when(
            warp.equal(b.const(0)),
            b.block(b.store(total, zero, first), add_up, *results),
        ),
    )


def _term(problem: Problem, value: Any, weights: Any, at: tuple[Any, ...], word: Any) -> Any:
    """Return what one element adds to a sum."""
    weight = b.load(weights, *at, word)
    if not problem.packed:
        return value * weight
    bits = value ^ weight
    if problem.masked:
        bits = bits & b.load(weights, *at, word + b.const(problem.words))
    return tirx.popcount(bits).astype("int32")

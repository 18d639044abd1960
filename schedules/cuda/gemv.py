# SPDX-License-Identifier: Apache-2.0
"""Dense layers of few rows: each weight is read once, by neighbouring lanes, and little else is.

A block computes 32 neighbouring channels of one row, so a packed word is a ballot of its first
warp. Each warp adds up four channels at a time, its lanes along the inputs; the lanes' partial sums
meet in shared memory, whose rows of 33 keep them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xnortvm._tvm import tirx
from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda import emit as e
from xnortvm.schedules.cuda.epilogue import Anchor, Epilogue
from xnortvm.schedules.cuda.gemm import ceil
from xnortvm.schedules.cuda.lanes import Lanes, write
from xnortvm.schedules.cuda.layers import product_of, read_layer

#: Warps of a block, and channels of each.
WARPS = 8
TOGETHER = e.WARP // WARPS
#: Rows up to which reading weights once for each row costs less than tiles that are mostly empty.
MOST_ROWS = 4


def takes(anchor: Anchor | None) -> bool:
    """Whether the layer is a product with so few rows that its time is that of its weights."""
    problem = product_of(anchor)
    if problem is None:
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
    kernel = _Kernel(*read_layer(func))
    grid = ceil(kernel.lanes.count, e.WARP), kernel.problem.images
    launch = e.Launch(grid, WARPS * e.WARP, kernel.emit)
    return e.build(func.params, func.attrs, launch)


@dataclass
class _Kernel:
    problem: Problem
    lanes: Lanes
    epilogue: Epilogue
    inputs: Any
    weights: Any

    def emit(self, blocks: list[Any], thread: Any) -> None:
        """Emit the kernel."""
        self.places = ceil(self.lanes.count, e.WARP) * e.WARP
        self.dtype = "int32" if self.problem.packed else "float32"
        self.first, self.row = blocks[0] * e.WARP, blocks[1]
        warp = e.let("warp", tirx.floordiv(thread, e.WARP))
        self.lane = e.let("lane", tirx.floormod(thread, e.WARP))
        self.channel = e.let("first_channel", warp * TOGETHER)
        sums = self._sums()
        partial = e.shared("partial", (e.WARP, e.WARP + 1), self.dtype)
        with e.unroll("j", TOGETHER) as j:
            e.store(partial, e.load(sums, j), self.channel + j, self.lane)
        e.barrier()
        with e.when(warp.equal(0)):
            self._finish(partial)

    def _sums(self) -> Any:
        """Return what this lane adds up of the channels of its warp."""
        sums = e.registers("sums", TOGETHER, self.dtype)
        with e.unroll("j", TOGETHER) as j:
            e.store(sums, tirx.const(0, self.dtype), j)
        middle = (0, 0) if self.problem.rank == 4 else ()
        words = self.problem.words
        with e.loop("step", ceil(words, e.WARP)) as step:
            word = e.let("word", step * e.WARP + self.lane)
            with e.when(word < words if words % e.WARP else True):
                value = e.let("value", e.load(self.inputs, self.row, *middle, word))
                with e.unroll("j", TOGETHER) as j:
                    place = self.first + self.channel + j
                    channel, valid = self.lanes.channel(place, self.places)
                    term = self._term(value, (channel, *middle), word)
                    term = e.where(valid, term, tirx.const(0, self.dtype))
                    e.store(sums, e.load(sums, j) + term, j)
        return sums

    def _term(self, value: Any, at: tuple[Any, ...], word: Any) -> Any:
        """Return what one element adds to a sum."""
        weight = e.load(self.weights, *at, word)
        if not self.problem.packed:
            return value * weight
        bits = value ^ weight
        if self.problem.masked:
            bits = bits & e.load(self.weights, *at, word + self.problem.words)
        return e.i32(tirx.popcount(bits))

    def _finish(self, partial: Any) -> None:
        """Add up what the lanes of one channel have, and store what becomes of it."""
        total = e.registers("total", 1, self.dtype)
        e.store(total, tirx.const(0, self.dtype), 0)
        with e.loop("part", e.WARP) as part:
            e.store(total, e.load(total, 0) + e.load(partial, self.lane, part), 0)
        place = e.let("place", self.first + self.lane)
        channel, valid = self.lanes.channel(place, self.places)
        for output in self.epilogue.outputs:
            write(output, e.load(total, 0), (self.row, 0, 0, channel), place, valid)

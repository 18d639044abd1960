# SPDX-License-Identifier: Apache-2.0
"""The template for every kernel with at most one sum: a thread for each element of the output.

The sum is computed as it is written, from global memory, and the caches serve what neighbouring
threads share. For elementwise kernels, packing, pooling, and for convolutions of groups, whose
channels share no inputs; where many threads share inputs, `xnortvm.schedules.cuda.tile` is faster.

Lanes of a warp are neighbouring channels, so a word of 32 packed bits is one ballot.
"""

from __future__ import annotations

from math import prod
from typing import Any

from xnortvm._tvm import tirx
from xnortvm.schedules.cuda import builder as b
from xnortvm.schedules.cuda.epilogue import (
    NotElementwiseError,
    Output,
    Reduction,
    read_epilogue,
    read_reduction,
)
from xnortvm.schedules.cuda.lanes import lanes_of, write

#: Threads of a block.
THREADS = 256


def direct(func: Any) -> Any:
    """Return the kernel.

    Parameters
    ----------
    func : tirx.PrimFunc
        With 32-bit indices.

    Raises
    ------
    NotElementwiseError
        When there is more than one sum, or elements depend on other elements.
    """
    epilogue, reduction = read_epilogue(func), read_reduction(func)
    if not epilogue.outputs:
        raise NotElementwiseError("the kernel has no outputs")
    by_shape: dict[tuple[int, ...], list[Output]] = {}
    for output in epilogue.outputs:
        by_shape.setdefault(output.shape, []).append(output)
    if reduction is not None and list(by_shape) != [reduction.shape]:
        raise NotElementwiseError("the outputs have another shape than the sum")
    return b.kernel(func, *(_launch(outputs, reduction) for outputs in by_shape.values()))


def _launch(outputs: list[Output], reduction: Reduction | None) -> Any:
    """Return one grid of threads for outputs of one shape."""
    lanes = lanes_of(outputs)
    *lead, _ = outputs[0].shape
    total = prod(lead) * lanes.count
    bx, tx = tirx.Var("bx", "int32"), tirx.Var("tx", "int32")
    number = tirx.Var("i", "int32")
    *at, place = b.split_index(number, [*lead, lanes.count])
    channel, valid = lanes.channel(place)
    index = (*at, channel)
    buffers, body = [], []
    acc: Any = None
    if reduction is not None:
        sums = b.registers("acc", (1,), reduction.dtype)
        buffers.append(sums)
        acc = b.load(sums, b.const(0))
        body.append(b.store(sums, reduction.first, b.const(0)))
        body.append(b.when(valid, _sum(reduction, sums, index)))
    body += [write(output, acc, index, place, valid) for output in outputs]
    blocks = -(-total // THREADS)
    inside = None if total % THREADS == 0 else number < b.const(total)
    return b.launch(
        [("blockIdx.x", blocks, bx), ("threadIdx.x", THREADS, tx)],
        buffers,
        tirx.Bind(number, bx * b.const(THREADS) + tx),
        b.when(inside, b.block(*body)),
    )


def _sum(reduction: Reduction, sums: Any, index: tuple[Any, ...]) -> Any:
    """Return the loops of the sum."""

    def nest(steps: list[Any]) -> Any:
        place = len(steps)
        if place < len(reduction.extents):
            extent = reduction.extents[place]
            return b.loop(f"r{place}", extent, lambda step: nest([*steps, step]))
        now = b.load(sums, b.const(0))
        return b.store(sums, reduction.step(now, index, tuple(steps)), b.const(0))

    return nest([])

# SPDX-License-Identifier: Apache-2.0
"""The template for every kernel with at most one sum: a thread for each element of the output.

The sum is computed as it is written, from global memory, and the caches serve what neighbouring
threads share. For elementwise kernels, packing, pooling, and for convolutions of groups, whose
channels share no inputs; where many threads share inputs, `xnortvm.schedules.cuda.tile` is faster.

Lanes of a warp are neighbouring channels, so a word of 32 packed bits is one ballot.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from xnortvm._tvm import tirx
from xnortvm.schedules.cuda import emit as e
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
    launches = [_launch(outputs, reduction) for outputs in by_shape.values()]
    return e.build(func.params, func.attrs, *launches)


def _launch(outputs: list[Output], reduction: Reduction | None) -> e.Launch:
    """Return one grid of threads for outputs of one shape."""
    lanes = lanes_of(outputs)
    *lead, _ = outputs[0].shape
    total = prod(lead) * lanes.count

    def body(blocks: list[Any], thread: Any) -> None:
        number = e.let("i", blocks[0] * THREADS + thread)
        with e.when(True if total % THREADS == 0 else number < total):
            *at, place = _split(number, [*lead, lanes.count])
            channel, valid = lanes.channel(place)
            index = (*at, channel)
            acc = None if reduction is None else _sum(reduction, index, valid)
            for output in outputs:
                write(output, acc, index, place, valid)

    return e.Launch([-(-total // THREADS)], THREADS, body)


def _split(number: Any, shape: Sequence[int]) -> list[Any]:
    """Return the indices of an element of a row-major tensor from its number."""
    found: list[Any] = []
    for axis, extent in enumerate(shape):
        part = tirx.floordiv(number, prod(shape[axis + 1 :]))
        found.append(part if axis == 0 else tirx.floormod(part, extent))
    return found


def _sum(reduction: Reduction, index: tuple[Any, ...], valid: Any) -> Any:
    """Compute a sum where its element is valid, and return it."""
    acc = e.registers("acc", 1, reduction.dtype)
    e.store(acc, reduction.first, 0)

    def nest(*steps: Any) -> None:
        axis = len(steps)
        if axis == len(reduction.extents):
            e.store(acc, reduction.step(e.load(acc, 0), index, steps), 0)
            return
        with e.loop(f"r{axis}", reduction.extents[axis]) as step:
            nest(*steps, step)

    with e.when(valid):
        nest()
    return e.load(acc, 0)

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

Measured on one core of a 2-core AMD Zen 4 virtual machine at 3.69 GHz, float output, in TBMAC/s;
``xnortvm bench --layers [--target …]`` prints these lines and the limits. Limits: what each form
reaches in registers, 1.26 (word), 0.77 (table, AVX2), 0.82 (table, AVX-512), 0.38 (table, SSE4).

=====================  =======  ========  ======  ======
kernel                 VPOPCNT  AVX512BW  AVX2    SSE4
=====================  =======  ========  ======  ======
3×3 64→64, 56×56       1.15     0.58      0.60    0.30
3×3 64→128, 56×56 s2   1.14     0.60      0.58    0.29
3×3 128→128, 28×28     1.18     0.64      0.64    0.31
3×3 256→256, 14×14     1.23     0.64      0.62    0.31
3×3 512→512, 7×7       1.24     0.61      0.55    0.27
1×1 64→128, 56×56 s2   0.76     0.35      0.31    0.15
dense 4096→4096        0.71     0.39      0.39    0.18
=====================  =======  ========  ======  ======

What is lost: with 64 channels a sum has 18 steps, and its epilogue is a tenth of its instructions;
a dense layer reads its weights from the third-level cache. Tables keep less of their limit, since
additions take the ports that shuffles need (Zen 4 shuffles on two of four).

Why the tiles fit: AVX2 has 16 registers, and 4 pixels × 2 vectors of a table are 8 accumulators, 2
weights, the row and a count. AVX-512 has 32: 7 pixels × 1 vector, whose activations are operands
(``vpxord {1to16}``); 14 where nothing is packed: a word of channels of so many pixels does not fit
TVM's stack arrays.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from xnortvm._tvm import IRModule, Schedule, tirx
from xnortvm.schedules.blocks import LLVM, ROWS, Kernel, is_reduction, operator, read_kernel
from xnortvm.schedules.decisions import Choices, Decisions
from xnortvm.schedules.epilogue import (
    EpilogueLoops,
    fits_stack,
    schedule_epilogue,
    separate_output,
)
from xnortvm.schedules.isa import Isa
from xnortvm.schedules.step_blocks import put_step, sums_of
from xnortvm.schedules.steps import Step, best_step, costs_of
from xnortvm.schedules.tiling import Tile, divisors, whole_words

#: Steps whose activations are spread to table rows together: one word.
ROWS_OF_A_WORD = 8

#: Steps of a float sum that follow each other without a branch, which costs 3 cycles between two.
STEPS_TOGETHER = 4

#: Forms whose sums of one vector go to the epilogue in registers.
REGISTER_EPILOGUES = ("pairwise", "paired")


def schedule_conv_like(
    sch: Any, isa: Isa, num_threads: int, wanted: Decisions | None = None
) -> str | None:
    """Schedule a kernel with a convolution or dense anchor.

    Parameters
    ----------
    wanted : Decisions, optional
        Taken where they are legal; else the rule decides.

    Returns
    -------
    str or None
        ``"wanted"`` or ``"rule"``; None when the kernel has another form.
    """
    kernel = _prepare(sch, isa)
    if kernel is None:
        return None
    found, is_wanted = _choices(sch, kernel, isa).pick(wanted)
    tile, block_channels = found.tile, found.block * kernel.lanes
    step = best_step(kernel.sums, tile) if kernel.sums else None
    loops = _schedule_anchor(sch, kernel, tile, block_channels, step, num_threads)
    lanes = _lanes_behind(kernel, isa)
    schedule_epilogue(sch, kernel, loops.epilogue, block_channels, lanes)
    code = sch.get(kernel.anchor).annotations.get(LLVM)
    if step is not None:
        kernel.anchor, code = put_step(sch, loops.step, step)
    if code is not None:
        sch.annotate(sch.get_loops(kernel.anchor)[0], "pragma_import_llvm", code)
    return "wanted" if is_wanted else "rule"


def choices_of(func: Any, isa: Isa) -> Choices | None:
    """Return what there is to decide for a PrimFunc, None when the rule does not apply to it."""
    sch = Schedule(IRModule({"main": func}))
    kernel = _prepare(sch, isa)
    return None if kernel is None else _choices(sch, kernel, isa)


def _prepare(sch: Any, isa: Isa) -> Kernel | None:
    """Do what depends on no decision."""
    kernel = read_kernel(sch)
    if kernel is None:
        return None
    separate_output(sch, kernel)
    for block in kernel.inline:
        sch.compute_inline(block)
    _inline_whole_chunk(sch, kernel)
    for block in kernel.before:
        _PREPARE[operator(sch, block)](sch, block)
    kernel.lanes = kernel.lanes or isa.lanes
    *lead, _ = sch.get(kernel.anchor).writes[0].source.shape
    if kernel.form == "float" and 0 < isa.steps <= math.prod(map(int, lead)):
        kernel.sums = sums_of(sch, kernel.anchor)
    return kernel


def _lanes_behind(kernel: Kernel, isa: Isa) -> int:
    """Return the lanes of the epilogue: those of 16-bit counts, which LLVM takes apart."""
    return kernel.lanes if kernel.form in REGISTER_EPILOGUES else isa.lanes


def _inline_whole_chunk(sch: Any, kernel: Kernel) -> None:
    """Make the byte sums the anchor when one chunk is the whole reduction."""
    if kernel.bytes is not None and not is_reduction(sch, kernel.anchor):
        sch.compute_inline(kernel.anchor)
        kernel.anchor, kernel.bytes = kernel.bytes, None


def _extents(sch: Any, block: Any) -> list[int]:
    return [_extent(sch, loop) for loop in sch.get_loops(block)]


def _choices(sch: Any, kernel: Kernel, isa: Isa) -> Choices:
    """Return what there is to decide for a prepared kernel."""
    spatial = len(sch.get(kernel.anchor).writes[0].source.shape)
    *lead, channels = _extents(sch, kernel.anchor)[:spatial]
    blocks = divisors(channels // kernel.lanes)
    if any(operator(sch, block) == "pack" for block in kernel.keep):
        blocks = whole_words(blocks, kernel.lanes)
    rows = lead[-2] if len(lead) >= 3 else 1
    costs = costs_of(kernel.sums, kernel.form)
    return Choices(kernel.form, rows, lead[-1], tuple(blocks), kernel.lanes, isa, costs)


class _AnchorLoops(NamedTuple):
    """Loops of a tiled anchor: the outermost of a step, and those of the epilogue."""

    step: Any
    epilogue: EpilogueLoops


def _schedule_anchor(
    sch: Any, kernel: Kernel, tile: Tile, block_channels: int, step: Step | None, num_threads: int
) -> _AnchorLoops:
    """Tile and vectorise the anchor."""
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
    reduction, taps = _cut_reduction(sch, kernel, reduction, step)
    sch.reorder(block, *before, column_tile, outer, *reduction, *taps, *unrolled, lanes)
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
        if kernel.form == "paired":  # three taps: their sums stay in the same registers
            for loop in chunk:
                sch.unroll(loop)
    in_registers = (kernel.form in REGISTER_EPILOGUES or step is not None) and fits_stack(
        sch, kernel, tile.pixels * block_channels
    )
    epilogue = EpilogueLoops(column_tile, outer if in_registers else None)
    return _AnchorLoops(taps[0] if taps else None, epilogue)


def _cut_reduction(
    sch: Any, kernel: Kernel, reduction: list[Any], step: Step | None
) -> tuple[list[Any], list[Any]]:
    """Return the loops over steps, a few of them unrolled, and those over the taps of a step."""
    if kernel.sums is None:
        return reduction, []
    order = kernel.sums.order
    if step is None:
        return [reduction[number] for number in order], []
    cut = [sch.split(reduction[number], [None, step.taps[number]]) for number in order]
    steps, taps = ([parts[i] for parts in cut] for i in (0, 1))
    last = max((i for i, loop in enumerate(steps) if _extent(sch, loop) > 1), default=0)
    together = max(n for n in divisors(_extent(sch, steps[last])) if n <= STEPS_TOGETHER)
    steps[last : last + 1] = sch.split(steps[last], [None, together])
    sch.unroll(steps[last + 1])
    return steps, taps


def _extent(sch: Any, loop: Any) -> int:
    return int(sch.get(loop).extent)


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
        if int(
            sch.get(block).annotations.get(ROWS, 0)
        ):  # NCHW: row by row, in the first level cache
            sch.decompose_padding(block, sch.get_loops(block)[-1])
            return
        sch.decompose_padding(block, sch.get_loops(block)[0])
        sch.fuse(*sch.get_loops(block)[-2:])


def _schedule_quantise(sch: Any, block: Any) -> None:
    """Fill a row with zeros, then round it; the few channels are interleaved by LLVM."""
    called = getattr(sch.get(block).body.value, "op", None)
    if str(getattr(called, "name", "")).endswith("if_then_else"):
        sch.decompose_padding(block, sch.get_loops(block)[2])
    sch.unroll(sch.get_loops(block)[-1])


_PREPARE = {"pad": _schedule_pad, "rows": _schedule_rows, "quantise": _schedule_quantise}

# SPDX-License-Identifier: Apache-2.0
"""Thread bindings for kernels with several sums, such as softmax: one launch for each of them."""

from __future__ import annotations

from typing import Any

from xnortvm._tvm import IRModule, Schedule, s_tir
from xnortvm.schedules.blocks import is_reduction
from xnortvm.schedules.cuda.epilogue import NotElementwiseError

THREADS = 256


def fallback(func: Any, _arch: str) -> Any:
    """Return the kernel: elementwise blocks inlined, the spatial axes of the others in threads.

    Raises
    ------
    NotElementwiseError
        When the function is not made of blocks.
    """
    if not isinstance(func.body, s_tir.SBlockRealize):
        raise NotElementwiseError("the function is not made of blocks")
    sch = Schedule(IRModule({"main": func}))
    root = sch.get_sblock("root")
    outputs = {str(sch.get(block).name_hint) for block in sch.get_output_blocks(root)}
    for block in sch.get_child_blocks(root):
        if str(sch.get(block).name_hint) not in outputs and not is_reduction(sch, block):
            try:
                sch.compute_inline(block)
            except Exception:  # it stays a launch of its own
                continue
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        _bind(sch, block)
    return sch.mod["main"].with_attr("tirx.is_scheduled", True)


def _bind(sch: Any, block: Any) -> None:
    loops = sch.get_loops(block)
    kinds = [int(axis.iter_type) for axis in sch.get(block).iter_vars]
    if len(loops) != len(kinds):
        raise NotElementwiseError("a block's loops are not its axes")
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == 0]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind != 0]
    if not spatial:
        spatial = [sch.add_unit_loop(loops[0] if loops else block)]
    sch.reorder(*spatial, *reduced)
    grid, thread = sch.split(sch.fuse(*spatial), [None, THREADS])
    sch.bind(grid, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")

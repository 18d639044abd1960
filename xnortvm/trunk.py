# SPDX-License-Identifier: Apache-2.0
"""``compile(..., trunk=)``: how floats that travel between kernels lie in memory.

A kernel of a residual network reads and writes the trunk beside packed bits, and on a GPU that is
most of its bytes. ``"fp16"`` halves them: values are rounded once when they are stored, and nothing
else is (`xnortvm.transform.half_trunk`).
"""

from __future__ import annotations

from math import prod

from xnortvm._tvm import IRModule
from xnortvm.errors import ModelError, TargetError, near
from xnortvm.report import Report
from xnortvm.target import Target
from xnortvm.transform.half_trunk import halve_trunk

FP32, FP16 = "fp32", "fp16"

#: The largest number of fp16, beyond which a value is stored as infinity.
LARGEST = 65504


def check_trunk(trunk: str, target: Target) -> None:
    """Refuse a format that does not exist, or that kernels of the target do not read.

    Raises
    ------
    ModelError
        When there is no such format.
    TargetError
        When the target is a CPU.
    """
    known = (FP32, FP16)
    if trunk not in known:
        raise ModelError(f"trunk is {trunk!r}{near(str(trunk), known)}; it can be fp32 or fp16")
    if trunk == FP16 and target.kind != "cuda":
        raise TargetError(
            f'trunk="fp16" is for GPUs and {target.name} is a CPU; leave it out, or name a target '
            "such as 'cuda -arch=sm_90a'"
        )


def choose_trunk(mod: IRModule, trunk: str, report: Report) -> IRModule:
    """Store the trunk in a format, and say in the report what that means.

    Parameters
    ----------
    mod : IRModule
        After `pipeline.graph_phases`.
    trunk : str
        A format that `check_trunk` has accepted.
    report : Report
        Gets a note; the column of what a layer writes then says 16.
    """
    if trunk == FP32:
        return mod
    mod, stored = halve_trunk(mod)
    if not stored:
        report.notes.append(
            'trunk="fp16" changes nothing: no kernel of a binary layer hands floats to another one'
        )
        return mod
    size = 2 * sum(map(prod, stored))
    tensors = "1 tensor" if len(stored) == 1 else f"{len(stored)} tensors"
    report.notes.append(
        f'trunk="fp16": {tensors} between kernels {"is" if len(stored) == 1 else "are"} stored as '
        f"fp16, {size:,} bytes in place of {2 * size:,}; each value is rounded once, by at most "
        f"2^-11 of itself (4.9e-4; 3e-8 where it is below 6.1e-5), and beyond {LARGEST} becomes an "
        "infinity; sums are fp32, and signs that a kernel packs beside such a tensor are those "
        "before it is rounded"
    )
    return mod

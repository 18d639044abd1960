# SPDX-License-Identifier: Apache-2.0
"""Which block of a fused kernel does what, read from the attribute "xnortvm.op"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from xnortvm._tvm import tirx

ATTRIBUTE = "xnortvm.op"

#: Operators whose blocks are the anchor of a kernel, and the form of their inner loop; None is
#: the form of the instruction set's popcount.
ANCHORS: dict[str, str | None] = {
    "bconv2d": None,
    "bdense": None,
    "conv2d": "float",
    "dense": "float",
}


@dataclass
class Kernel:
    """The blocks of a kernel with one anchor.

    Attributes
    ----------
    op : str
        Operator of the anchor.
    anchor : block
        Writes the finished sums of the anchor.
    bytes : block or None
        Writes the sums of one chunk in byte lanes, which ``anchor`` adds up.
    pads : list of block
        Spatial padding.
    inline : list of block
        Elementwise blocks that disappear into their readers.
    keep : list of block
        Blocks that write outputs or values to be packed, and the packs, in order.
    """

    op: str
    anchor: Any
    bytes: Any = None
    pads: list[Any] = field(default_factory=list)
    inline: list[Any] = field(default_factory=list)
    keep: list[Any] = field(default_factory=list)


def operator(sch: Any, block: Any) -> str:
    """Return the attribute of a block, "" when it has none."""
    return str(sch.get(block).annotations.get(ATTRIBUTE, ""))


def is_reduction(sch: Any, block: Any) -> bool:
    """Return whether a block has reduction axes."""
    return any(int(axis.iter_type) == tirx.IterVar.CommReduce for axis in sch.get(block).iter_vars)


def anchor_operator(sch: Any) -> str | None:
    """Return the operator of a function's only anchor, None without one."""
    root = sch.get_sblock("root")
    found = [op for op in (operator(sch, b) for b in sch.get_child_blocks(root)) if op in ANCHORS]
    return found[0] if len(found) == 1 else None


def read_kernel(sch: Any) -> Kernel | None:
    """Sort the blocks of a function with one anchor; None when it has another form."""
    op = anchor_operator(sch)
    if op is None:
        return None
    root = sch.get_sblock("root")
    blocks = sch.get_child_blocks(root)
    outputs = {str(sch.get(b).name_hint) for b in sch.get_output_blocks(root)}
    kernel = Kernel(op, next(b for b in blocks if operator(sch, b) == op))
    packed_from = {
        str(sch.get(producer).name_hint)
        for block in blocks
        if operator(sch, block) == "pack"
        for producer in sch.get_producers(block)
    }
    behind = False
    for block in blocks:
        role, name = operator(sch, block), str(sch.get(block).name_hint)
        if role == op:
            behind = True
        elif role == f"{op}.bytes":
            kernel.bytes = block
        elif role == "pad":
            kernel.pads.append(block)
        elif is_reduction(sch, block) or not behind:
            return None
        elif role == "pack" or name in outputs or name in packed_from:
            kernel.keep.append(block)
        else:
            kernel.inline.append(block)
    return kernel

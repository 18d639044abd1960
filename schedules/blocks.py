# SPDX-License-Identifier: Apache-2.0
"""Which block of a fused kernel does what, read from the attribute "xnortvm.op"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xnortvm._tvm import tirx

if TYPE_CHECKING:
    from xnortvm.schedules.steps import Sums

ATTRIBUTE = "xnortvm.op"
FORM, LANES, LLVM, ROWS = "xnortvm.form", "xnortvm.lanes", "xnortvm.llvm", "xnortvm.rows"
#: Of a pack: words that it makes at once.
WORDS = "xnortvm.words"

#: Operators whose blocks are the anchor of a kernel.
ANCHORS = ("bconv2d", "bdense", "conv2d", "dense", "winograd")

#: Operators in front of an anchor that prepare what it reads, for the whole image.
PREPARATIONS = ("pad", "rows", "quantise")


@dataclass
class Kernel:
    """The blocks of a kernel with one anchor.

    Attributes
    ----------
    op : str
        Operator of the anchor.
    form : str
        Form of its inner loop: ``"float"``, or that of `xnortvm.ops.dot_form.form_of`.
    lanes : int
        Output channels in one vector of the anchor; 0 is as many as fit.
    anchor : block
        Writes the finished sums of the anchor.
    bytes : block or None
        Writes the sums of one chunk in byte lanes, which ``anchor`` adds up.
    before : list of block
        What prepares the anchor's input: spatial padding, activations spread to table rows.
    steps : list of block
        What a method of several steps computes before its anchor, with roles ``<op>.<step>``.
    inline : list of block
        Elementwise blocks that disappear into their readers.
    keep : list of block
        Blocks that write outputs or values to be packed, and the packs, in order.
    sums : Sums or None
        Where a float anchor that is computed in steps reads, see `xnortvm.schedules.steps`.
    """

    op: str
    form: str
    lanes: int
    anchor: Any
    bytes: Any = None
    before: list[Any] = field(default_factory=list)
    steps: list[Any] = field(default_factory=list)
    inline: list[Any] = field(default_factory=list)
    keep: list[Any] = field(default_factory=list)
    sums: Sums | None = None


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
    anchor = next(b for b in blocks if operator(sch, b) == op)
    marks = sch.get(anchor).annotations
    kernel = Kernel(op, str(marks.get(FORM, "float")), int(marks.get(LANES, 0)), anchor)
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
        elif role in PREPARATIONS:
            kernel.before.append(block)
        elif role.startswith(f"{op}."):
            kernel.steps.append(block)
        elif is_reduction(sch, block) or not behind:
            return None
        elif role == "pack" or name in outputs or name in packed_from:
            kernel.keep.append(block)
        else:
            kernel.inline.append(block)
    return kernel

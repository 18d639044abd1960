# SPDX-License-Identifier: Apache-2.0
"""How kernels are computed: one rule per kind of kernel, with the numbers of each ISA in a table.

`ApplySchedules` gives every PrimFunc of a module its schedule. A function is scheduled by the rule
of its anchor, which the block attribute "xnortvm.op" names; a function without an anchor by the
default rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xnortvm._tvm import IRModule, Schedule, ir, ir_transform, s_tir, tirx
from xnortvm.schedules.blocks import ANCHORS, anchor_operator
from xnortvm.schedules.conv_like import schedule_conv_like
from xnortvm.schedules.cpu_default import schedule as schedule_default
from xnortvm.schedules.cuda.decisions import GpuDecisions
from xnortvm.schedules.cuda.dispatch import make_kernel, make_wanted
from xnortvm.schedules.cuda.place import place_weights
from xnortvm.schedules.decisions import ORIGIN, Decisions, decisions_of
from xnortvm.schedules.isa import ISAS, Gpu, Isa, isa_of
from xnortvm.schedules.winograd import schedule_winograd

if TYPE_CHECKING:
    from xnortvm.target import Target

__all__ = ["ISAS", "ApplySchedules", "Isa", "isa_of", "schedule_function"]

SCHEDULED = "xnortvm.scheduled"
RULE_NAME = "xnortvm.schedule"

#: Attribute of a scheduled function: whether the rule decided or, such as "tuned", what else did.
DECIDED_BY = "xnortvm.decided_by"

#: From the operator of the anchor to its rule: changes the schedule in place and says whose
#: decisions it took, "wanted" or "rule"; None if it cannot.
RULES: dict[str, Callable[[Any, Isa, int, Decisions | None], str | None]] = {
    **dict.fromkeys(ANCHORS, schedule_conv_like),
    "winograd": schedule_winograd,
}


def schedule_function(func: Any, isa: Isa, num_threads: int = 1) -> Any:
    """Return a PrimFunc scheduled for an instruction set.

    Parameters
    ----------
    func : tirx.PrimFunc
        A kernel as `FuseTIR` leaves it.
    num_threads : int
        With more than one, the outer loops are parallel.

    Returns
    -------
    tirx.PrimFunc
        With the attributes "xnortvm.schedule", the name of the rule, and "xnortvm.decided_by":
        decisions that the function carries (`DECISIONS`) are taken where they are legal. A
        function that is not made of blocks, such as TVM's scatter and bucketize, keeps its own
        loops, without threads: TVM's may write to one place.
    """
    if isinstance(isa, Gpu):
        return _kernel_for_gpu(func, isa.arch)
    if not isinstance(func.body, s_tir.SBlockRealize) or func.body.block.name_hint != "root":
        return _marked(_serial(func), "none", "rule")
    sch = Schedule(IRModule({"main": func}))
    anchor = anchor_operator(sch)
    wanted = decisions_of(func)
    mine = wanted if isinstance(wanted, Decisions) else None
    taken = RULES[anchor](sch, isa, num_threads, mine) if anchor else None
    if taken is None:
        scheduled, rule = schedule_default(func, isa, num_threads), f"default.{isa.name}"
    else:
        scheduled, rule = sch.mod["main"], f"{anchor}.{isa.name}"
    return _marked(scheduled, rule, _origin(func) if taken == "wanted" else "rule")


def _kernel_for_gpu(func: Any, arch: str) -> Any:
    wanted = decisions_of(func)
    if isinstance(wanted, GpuDecisions):
        made = make_wanted(func, arch, wanted)
        if made is not None:
            return _marked(made, f"{wanted.family}.{arch}", _origin(func))
    made, family = make_kernel(func, arch)
    return _marked(made, f"{family}.{arch}", "rule")


def _origin(func: Any) -> str:
    return str(func.attrs.get(ORIGIN, "tuned"))


def _marked(func: Any, rule: str, origin: str) -> Any:
    return func.with_attr({SCHEDULED: True, RULE_NAME: rule, DECIDED_BY: origin})


def _serial(func: Any) -> Any:
    """Return a PrimFunc without parallel outer loops."""
    outer = func.body if isinstance(func.body, s_tir.SBlockRealize) else None
    if outer is None:
        return func.with_body(_serial_loops(func.body), func.span)
    old = outer.block
    block = s_tir.SBlock(
        old.iter_vars,
        old.reads,
        old.writes,
        old.name_hint,
        _serial_loops(old.body),
        old.init,
        old.alloc_buffers,
        old.match_buffers,
        old.annotations,
    )
    realize = s_tir.SBlockRealize(outer.iter_values, outer.predicate, block)
    return func.with_body(realize, func.span)


def _serial_loops(stmt: Any) -> Any:
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([_serial_loops(each) for each in stmt.seq])
    if isinstance(stmt, tirx.AttrStmt):
        return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, _serial_loops(stmt.body))
    if isinstance(stmt, tirx.For) and stmt.kind == tirx.stmt.ForKind.PARALLEL:
        return tirx.For(
            stmt.loop_var, stmt.min, stmt.extent, tirx.stmt.ForKind.SERIAL, _serial_loops(stmt.body)
        )
    return stmt


def ApplySchedules(target: Target) -> Any:
    """Return the pass that schedules every PrimFunc which has not been scheduled yet."""
    isa, num_threads = isa_of(target), int(target.num_threads)

    @ir_transform.module_pass(opt_level=0, name="xnortvm.ApplySchedules")
    def apply(mod: IRModule, _context: Any) -> IRModule:
        functions = {}
        for gvar, func in mod.functions.items():
            fresh = isinstance(func, tirx.PrimFunc) and SCHEDULED not in (func.attrs or {})
            functions[gvar] = schedule_function(func, isa, num_threads) if fresh else func
        scheduled = ir.IRModule(functions, attrs=mod.attrs)
        return place_weights(scheduled) if isinstance(isa, Gpu) else scheduled

    return apply

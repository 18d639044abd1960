# SPDX-License-Identifier: Apache-2.0
"""The search space of a task, which is what its schedule rule could decide, and its candidates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xnortvm import pipeline
from xnortvm._tvm import IRModule, ir, relax, tirx
from xnortvm.errors import CompileError
from xnortvm.graph.dataflow import Graph, dtype_of, shape_of, value_of
from xnortvm.schedules.conv_like import choices_of
from xnortvm.schedules.cuda.dispatch import legal
from xnortvm.schedules.decisions import AnyDecisions, Choices, Decisions
from xnortvm.schedules.isa import OWN_COLUMNS, Gpu, isa_of
from xnortvm.target import Target
from xnortvm.tuning.arguments import random_arrays
from xnortvm.tuning.task import Task, decide, tasks_of

Array = np.ndarray[Any, Any]

#: Columns more than the rule's narrowest map that are tried.
_WIDER = 3
#: Operators whose form and width can be chosen.
_PACKED = frozenset({"bconv2d", "bdense"})


@dataclass
class Lowered:
    """A kernel as one PrimFunc, with what it is called with.

    Attributes
    ----------
    func : tirx.PrimFunc
    arguments : list of int or ndarray
        Of one call: the number of an input of the task, or a constant.
    inputs, outputs : list of (shape, dtype)
    """

    func: Any = field(repr=False)
    arguments: list[int | Array] = field(repr=False)
    inputs: list[tuple[tuple[int, ...], str]]
    outputs: list[tuple[tuple[int, ...], str]]


@dataclass
class Space:
    """All legal decisions of a task.

    Attributes
    ----------
    rule : Decisions or GpuDecisions
        What the compiler takes without a record: candidate 0.
    legal : list of those
        The rule's first; the rest in a fixed order.
    """

    rule: AnyDecisions
    legal: list[AnyDecisions]


def lower(
    task: Task, target: Target, decisions: AnyDecisions | None, *, scheduled: bool
) -> Lowered:
    """Make the kernel of a task as the compiler would with these decisions; None is the rule's.

    Raises
    ------
    CompileError
        When the task does not become one kernel.
    """
    origin = None if decisions is None else (decisions, "tuned")
    phases = pipeline.kernel_phases(target, None if origin is None else decide(lambda _: origin))
    phases[0].passes[:] = [each for each in phases[0].passes if not _looks_for_regions(each)]
    mod = pipeline.run(task.mod, phases if scheduled else phases[:1])
    graph = Graph(mod["main"])
    calls = [expr for _, expr in graph.bindings if isinstance(expr, ir.Call) and _is_kernel(expr)]
    if len(calls) != 1:
        raise CompileError(f"{task.key} is computed by {len(calls)} kernels, which is not tuned")
    (call,) = calls
    fields = call.args[1].fields if isinstance(call.args[1], relax.Tuple) else [call.args[1]]
    numbers = {param: number for number, param in enumerate(graph.params)}
    arguments: list[int | Array] = []
    for each in fields:
        value = value_of(each)
        arguments.append(numbers[each] if value is None else value)
    return Lowered(
        mod[call.args[0]],
        arguments,
        [_type(param) for param in graph.params],
        [_of_type(each) for ty in call.ty_args for each in _fields(ty)],
    )


def _looks_for_regions(each: Any) -> bool:
    return getattr(each, "__name__", "") in ("mark_stem", "group_epilogues")


def _is_kernel(call: Any) -> bool:
    return bool(call.args) and isinstance(call.args[0], ir.GlobalVar)


def _type(var: Any) -> tuple[tuple[int, ...], str]:
    return shape_of(var) or (), dtype_of(var)


def _fields(ty: Any) -> list[Any]:
    return list(ty.fields) if isinstance(ty, relax.TupleType) else [ty]


def _of_type(ty: Any) -> tuple[tuple[int, ...], str]:
    dtype = ty.dtype.dtype if hasattr(ty.dtype, "dtype") else ty.dtype
    return tuple(int(dim) for dim in ty.shape.values), str(dtype)


def space_of(task: Task, target: Target) -> Space | None:
    """Return the legal decisions of a task; None when its rule leaves nothing to decide.

    Parameters
    ----------
    task : Task
    target : Target
    """
    isa = isa_of(target)
    if isinstance(isa, Gpu):
        kernels = legal(lower(task, target, None, scheduled=False).func, isa.arch)
        return Space(kernels[0], [*kernels]) if len(kernels) > 1 else None
    first = _choices(task, target, None)
    if first is None:
        return None
    rule = first.rule()
    found: dict[AnyDecisions, None] = {rule: None}
    for choices in _variants(task, target, first):
        found.update(dict.fromkeys(choices.legal()))
    return Space(rule, list(found)) if isa.lanes and len(found) > 1 else None


def _variants(task: Task, target: Target, first: Choices) -> list[Choices]:
    """Return the choices for every form and width, the rule's first."""
    found = {(first.form, first.columns): first}
    if task.key.op not in _PACKED:
        return list(found.values())
    for form in isa_of(target).forms:
        narrow = _choices(task, target, _wanted(form, 1))  # as wide as the map is
        if narrow is None or not _is_column(narrow.form, form):
            continue  # this kernel cannot be counted so
        found.setdefault((narrow.form, narrow.columns), narrow)
        if narrow.rows * narrow.columns == 1 or task.key.op == "bdense":
            continue
        for width in range(narrow.columns + 1, narrow.columns + 1 + _WIDER):
            wider = _choices(task, target, _wanted(form, width))
            if wider is not None and wider.columns == width:
                found.setdefault((wider.form, width), wider)
    return list(found.values())


def _is_column(found: str, asked: str) -> bool:
    return found == asked or OWN_COLUMNS.get(found, found) == OWN_COLUMNS.get(asked, asked)


def _wanted(form: str, width: int) -> Decisions:
    return Decisions.from_json({"form": form, "width": width, "tile": [1, 1, 1], "block": 1})


def _choices(task: Task, target: Target, wanted: Decisions | None) -> Choices | None:
    func = lower(task, target, wanted, scheduled=False).func
    assert isinstance(func, tirx.PrimFunc)
    return choices_of(func, isa_of(target))


def random_inputs(lowered: Lowered, seed: int = 0) -> list[Array]:
    """Return inputs of a task, the same for the same seed: random bits, normal floats."""
    return random_arrays(lowered.inputs, seed)


def tasks_for(graph: IRModule, target: Target) -> list[Task]:
    """Return the tasks of a model after the phases that do not know the target."""
    phase = pipeline.kernel_phases(target)[0]
    names = [getattr(each, "__name__", "") for each in phase.passes]
    until = names.index("group_epilogues") + 1
    return tasks_of(pipeline.run(graph, [pipeline.Phase("kernels", phase.passes[:until])]))


def task_to_bytes(task: Task) -> bytes:
    """Return the module of a task for another process."""
    return str(ir.save_json(task.mod)).encode()


def task_from_bytes(key: Any, data: bytes) -> Task:
    """Return the task that `task_to_bytes` described."""
    mod = ir.load_json(data.decode())
    assert isinstance(mod, IRModule)
    return Task(key, mod, [])

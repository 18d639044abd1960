# SPDX-License-Identifier: Apache-2.0
"""How much a kernel has to compute and to move, which bounds its time on any machine."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xnortvm._tvm import relax
from xnortvm.graph.dataflow import Graph, op_name, shape_of, value_of
from xnortvm.tuning.task import TUNABLE

if TYPE_CHECKING:
    from xnortvm.tuning.task import Task


class Work(NamedTuple):
    """One call of a kernel.

    Attributes
    ----------
    kind : str
        "binary" or "float".
    macs : int
        Multiply-accumulates.
    bytes : int
        Of its inputs, outputs and constants, each read or written at least once.
    """

    kind: str
    macs: int
    bytes: int


def work_of(task: Task) -> Work:
    """Return what one call of a task's kernel does."""
    graph = next(
        found
        for found in (Graph(func) for func in task.mod.functions.values())
        if any(op_name(expr) in TUNABLE for _, expr in found.bindings)
    )
    anchor = next(expr for _, expr in graph.bindings if op_name(expr) in TUNABLE)
    read = (value_of(arg) for _, expr in graph.bindings for arg in getattr(expr, "args", ()))
    constants = sum(value.nbytes for value in read if value is not None)
    made = graph.result.ty
    outputs = made.fields if isinstance(made, relax.TupleType) else [made]
    moved = sum(_bytes(ty) for ty in (*(param.ty for param in graph.params), *outputs))
    binary = task.key.op.startswith("b")
    return Work("binary" if binary else "float", _macs(task, anchor), moved + constants)


def _macs(task: Task, anchor: Any) -> int:
    """Each output is a sum over the window and the channels of its group."""
    weights, outputs = task.key.shapes[1], prod(shape_of(anchor) or ())
    if task.key.op == "dense":
        return outputs * weights[-2]
    if task.key.op == "conv2d":
        return outputs * prod(weights[1:])
    channels, groups = (
        int(anchor.attrs[name]) if name in anchor.attrs else 1 for name in ("channels", "groups")
    )
    return outputs * prod(weights[1:-1]) * channels // groups


def _bytes(ty: Any) -> int:
    dtype = ty.dtype.dtype if hasattr(ty.dtype, "dtype") else ty.dtype
    return prod(int(dim) for dim in ty.shape.values) * np.dtype(str(dtype)).itemsize

# SPDX-License-Identifier: Apache-2.0
"""``main`` of a scheduled module → calls of kernels with the place of every argument.

A compiled network is a list of kernel calls with static shapes, so that the life of each tensor is
known: from the call that makes it to the last one that reads it. Tensors that do not live together
share bytes of the workspace; outputs are written where the caller wants them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from xnortvm._tvm import IRModule, relax, relax_transform
from xnortvm.errors import CompileError
from xnortvm.freestanding.kernels import Kernels, aligned, bytes_of
from xnortvm.graph.dataflow import Graph, dtype_of, is_const, op_name, shape_of, value_of


class Place(NamedTuple):
    """Where bytes lie.

    Attributes
    ----------
    area : str
        ``"input"``, ``"output"``, ``"weights"`` or ``"workspace"``.
    at : int
        The number of the input or output; otherwise the offset in bytes.
    """

    area: str
    at: int


class Step(NamedTuple):
    """One call: the kernel's symbol and its pointers, the workspace last."""

    symbol: str
    pointers: tuple[Place, ...]


class Copy(NamedTuple):
    """An output that is an input, a constant or another output."""

    source: Place
    output: int
    size: int


@dataclass(frozen=True)
class Plan:
    """What happens in a run.

    Attributes
    ----------
    steps : list of Step
        In order.
    copies : list of Copy
        At the end.
    weights : bytes
        All constants.
    workspace : int
        Bytes for the tensors between kernels and for what kernels need while they run.
    inputs, outputs : int
        How many there are.
    """

    steps: list[Step]
    copies: list[Copy]
    weights: bytes
    workspace: int
    inputs: int
    outputs: int


@dataclass(eq=False)
class _Storage:
    """Bytes that one tensor, and views of it, lie in."""

    size: int
    first: int = -1
    last: int = -1
    place: Place | None = None


@dataclass
class _Weights:
    """Constants one behind the other, each array once."""

    alignment: int
    data: list[bytes] = field(default_factory=list)
    size: int = 0
    known: dict[bytes, int] = field(default_factory=dict)

    def add(self, value: np.ndarray[Any, Any]) -> int:
        raw = np.ascontiguousarray(value).tobytes()
        if raw not in self.known:
            padded = raw.ljust(aligned(len(raw), self.alignment), b"\0")
            self.known[raw] = self.size
            self.data.append(padded)
            self.size += len(padded)
        return self.known[raw]


def make_plan(mod: IRModule, kernels: Kernels, alignment: int) -> Plan:
    """Plan a run of ``main``.

    Parameters
    ----------
    mod : IRModule
        As after the phase "schedule".
    kernels : Kernels
        Of the same module.
    alignment : int
        Of every tensor, in bytes.

    Raises
    ------
    CompileError
        When ``main`` does anything but call kernels.
    """
    return _Planner(kernels, alignment).plan(
        Graph(relax_transform.RewriteDataflowReshape()(mod)["main"])
    )


class _Planner:
    def __init__(self, kernels: Kernels, alignment: int) -> None:
        self._kernels = kernels
        self._alignment = alignment
        self._weights = _Weights(alignment)
        self._values: dict[Any, list[_Storage]] = {}
        self._calls: list[tuple[str, list[_Storage], _Storage]] = []
        self._made: list[_Storage] = []

    def plan(self, graph: Graph) -> Plan:
        for index, param in enumerate(graph.params):
            self._values[param] = [_Storage(_size(param.ty), place=Place("input", index))]
        for var, expr in graph.bindings:
            self._values[var] = self._bind(var, expr)
        results = self._storages(graph.result)
        copies = []
        for index, storage in enumerate(results):
            if storage.place is None:
                storage.place = Place("output", index)
            else:
                copies.append(Copy(storage.place, index, storage.size))
        workspace = self._pack()
        steps = [
            Step(
                self._kernels.symbols[name],
                tuple(_placed(storage) for storage in (*arguments, scratch)),
            )
            for name, arguments, scratch in self._calls
        ]
        weights = b"".join(self._weights.data)
        return Plan(steps, copies, weights, workspace, len(graph.params), len(results))

    def _bind(self, var: Any, expr: Any) -> list[_Storage]:
        name = op_name(expr)
        if name == "relax.call_tir" and len(expr.args) == 2:
            return self._call(var, expr)
        if name == "relax.reshape":
            return self._storages(expr.args[0])
        if isinstance(expr, relax.TupleGetItem):
            return [self._storages(expr.tuple_value)[expr.index]]
        if isinstance(expr, (relax.Var, relax.Tuple)) or is_const(expr):
            return self._storages(expr)
        raise CompileError(
            f"the model computes {var.name} by {name or type(expr).__name__}, which is no kernel, "
            "so it cannot run without TVM; save the model with CompiledModel.save instead"
        )

    def _call(self, var: Any, call: Any) -> list[_Storage]:
        kernel, taken = call.args
        name, now = str(kernel.name_hint), len(self._calls)
        types = getattr(var.ty, "fields", [var.ty])
        made = [_Storage(_size(ty), now, now) for ty in types]
        scratch = _Storage(self._kernels.scratch[name], now, now)
        arguments = [*self._storages(taken), *made]
        for storage in arguments:
            storage.last = now
        self._calls.append((name, arguments, scratch))
        self._made += [*made, scratch]
        return made

    def _storages(self, expr: Any) -> list[_Storage]:
        if isinstance(expr, relax.Var):
            return self._values[expr]
        if isinstance(expr, relax.Tuple):
            return [storage for part in expr.fields for storage in self._storages(part)]
        value = value_of(expr)
        if value is None:
            raise CompileError(
                f"the model hands {type(expr).__name__} to a kernel, which is no tensor, so it "
                "cannot run without TVM; save the model with CompiledModel.save instead"
            )
        return [_Storage(value.nbytes, place=Place("weights", self._weights.add(value)))]

    def _pack(self) -> int:
        """Give what is left a place in the workspace, the largest first; return its size."""
        open_ = [storage for storage in self._made if storage.place is None]
        placed: list[tuple[_Storage, int]] = []
        end = 0
        for storage in sorted(open_, key=lambda each: (-each.size, each.first)):
            at = 0
            together = (
                (start, start + aligned(other.size, self._alignment))
                for other, start in placed
                if other.first <= storage.last and storage.first <= other.last
            )
            for start, stop in sorted(together):
                if at + storage.size <= start:
                    break
                at = max(at, stop)
            storage.place = Place("workspace", at)
            placed.append((storage, at))
            end = max(end, at + aligned(storage.size, self._alignment))
        return end


def _placed(storage: _Storage) -> Place:
    assert storage.place is not None
    return storage.place


def _size(ty: Any) -> int:
    blank = relax.Var("blank", ty)
    shape = shape_of(blank)
    if shape is None:
        raise CompileError("a tensor of the model has no static shape")
    return bytes_of(shape, dtype_of(blank))

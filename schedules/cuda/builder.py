# SPDX-License-Identifier: Apache-2.0
"""Statements of hand-written kernels: thread axes, loops, registers, shared memory, ballots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from xnortvm._tvm import ir, s_tir, tirx

WARP = 32
#: Attribute that keeps TVM's own schedules away.
IS_SCHEDULED = "tirx.is_scheduled"


def const(value: int, dtype: str = "int32") -> Any:
    """Return a constant."""
    return tirx.const(value, dtype)


def block(*statements: Any) -> Any:
    """Return statements one after the other; None is left out."""
    kept = [statement for statement in statements if statement is not None]
    return kept[0] if len(kept) == 1 else tirx.SeqStmt(kept)


def loop(name: str, extent: int, body: Callable[[Any], Any], *, unroll: bool = False) -> Any:
    """Return a loop over ``0 … extent - 1``; of one step, or unrolled, no loop is left."""
    if extent == 1:
        return body(const(0))
    var = tirx.Var(name, "int32")
    kind = tirx.ForKind.UNROLLED if unroll else tirx.ForKind.SERIAL
    return tirx.For(var, const(0), const(extent), kind, body(var))


def when(condition: Any, then: Any) -> Any:
    """Return a statement that is run under a condition; the statement where that is None."""
    return then if condition is None else tirx.IfThenElse(condition, then, None)


def registers(name: str, shape: Sequence[int], dtype: str) -> Any:
    """Return a buffer in the registers of a thread: its indices have to be constants."""
    return tirx.decl_buffer(list(shape), dtype, name, scope="local")


def shared(name: str, shape: Sequence[int], dtype: str) -> Any:
    """Return a buffer in the memory that a block of threads shares."""
    return tirx.decl_buffer(list(shape), dtype, name, scope="shared")


def load(buffer: Any, *index: Any) -> Any:
    """Return an element."""
    return tirx.BufferLoad(buffer, list(index))


def store(buffer: Any, value: Any, *index: Any) -> Any:
    """Return the statement ``buffer[index] = value``."""
    return tirx.BufferStore(buffer, value, list(index))


def barrier() -> Any:
    """Return the statement at which the threads of a block meet."""
    scope = ir.StringImm("shared"), const(0, "bool"), const(-1)
    return tirx.Evaluate(_intrinsic("int32", "tirx.tvm_storage_sync", *scope))


def ballot(condition: Any) -> Any:
    """Return the word whose bit l says whether the condition holds in lane l of the warp."""
    every = const(0xFFFFFFFF, "uint32")
    return _intrinsic("uint32", "tirx.cuda.ballot_sync", every, condition.astype("int32"))


def _intrinsic(dtype: str, name: str, *args: Any) -> Any:
    return tirx.call_intrin(dtype, ir.Op.get(name), *args)


def split_index(index: Any, shape: Sequence[int]) -> list[Any]:
    """Return the indices of an element of a row-major tensor from its number."""
    found: list[Any] = []
    for place, extent in enumerate(shape):
        below = prod(shape[place + 1 :])
        part = index if below == 1 else tirx.floordiv(index, const(below))
        if extent == 1:
            found.append(const(0))
        else:
            found.append(part if place == 0 else tirx.floormod(part, const(extent)))
    return found


def launch(axes: Sequence[tuple[str, int, Any]], buffers: Sequence[Any], *statements: Any) -> Any:
    """Return the statement that runs statements in a grid of threads.

    Parameters
    ----------
    axes : sequence of (tag, extent, var)
        Such as ``("blockIdx.x", 80, bx)``, blocks before threads.
    buffers : sequence of tirx.Buffer
        In registers and shared memory.
    """
    body = block(*(tirx.AllocBuffer(buffer) for buffer in buffers), *statements)
    for tag, extent, var in reversed(axes):
        domain = ir.Range(const(0), const(extent))
        axis = tirx.IterVar(domain, var, tirx.IterVar.ThreadIndex, tag)
        body = tirx.AttrStmt(axis, "thread_extent", const(extent), body)
    return body


def kernel(func: Any, *launches: Any) -> Any:
    """Return the function with another body: one launch after the other."""
    root = s_tir.SBlock([], [], [], "root", block(*launches))
    realize = s_tir.SBlockRealize([], const(1, "bool"), root)
    return func.with_body(realize).with_attr(IS_SCHEDULED, True)

# SPDX-License-Identifier: Apache-2.0
"""The blocks that fusion leaves a kernel as, each of which stores one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xnortvm._tvm import ir, s_tir, tirx, tvm_ffi
from xnortvm.schedules.blocks import ATTRIBUTE


@dataclass(frozen=True)
class Block:
    """A block that stores one value: ``buffer[indices] = value`` at its axes."""

    node: Any
    axes: list[Any]
    buffer: Any
    indices: list[Any]
    value: Any

    @property
    def role(self) -> str:
        """What it computes: an anchor, ``"pack"``, …, or ""."""
        return str(self.node.annotations.get(ATTRIBUTE, ""))


def blocks_of(func: Any) -> list[Block]:
    """Return the blocks of a function but the outermost."""
    found: list[Block] = []

    def visit(node: Any) -> None:
        body = node.body
        if isinstance(body, tirx.BufferStore):
            axes = [axis.var for axis in node.iter_vars]
            found.append(Block(node, axes, body.buffer, list(body.indices), body.value))

    tvm_ffi.structural_walk(func.body, [(s_tir.SBlock, visit)])
    return found


def loads_of(value: Any) -> list[Any]:
    """Return the buffers that an expression reads, in order."""
    found: list[Any] = []
    tvm_ffi.structural_walk(value, [(ir.TensorLoad, lambda node: found.append(node.source))])
    return found


def extents_of(buffer: Any) -> tuple[int, ...]:
    return tuple(int(extent) for extent in buffer.shape)


def params_of(func: Any) -> list[Any]:
    return [param for param in func.params if tirx.is_buffer_var(param)]


def is_reduced(axis: Any) -> bool:
    return int(axis.iter_type) == tirx.IterVar.CommReduce

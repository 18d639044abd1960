# SPDX-License-Identifier: Apache-2.0
"""Packed bits of ±1 values, computed once for all their readers and as far up as possible.

What only moves pixels, and the maximum of a window, is done on bits: they are a thirty-second of
the floats.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from xnortvm import ops
from xnortvm._tvm import ir, relax
from xnortvm.graph.dataflow import Builder, op_name, shape_of


class PackedSigns:
    """The packed bits in one function so far."""

    def __init__(self) -> None:
        self._packed: dict[tuple[Any, int, str], Any] = {}

    def pack(self, builder: Builder, var: Any, groups: int, zero: str) -> Any:
        """Emit the packed bits of two-valued activations, once for all their users.

        `zero` is what the 0 of a torch.sign counts as, see `xnortvm.ops.bitpack`.
        """
        key = (var, groups, zero)
        if key not in self._packed:
            self._packed[key] = _pack(self, builder, var, groups, zero)
        return self._packed[key]


def _pack(state: PackedSigns, builder: Builder, var: Any, groups: int, zero: str) -> Any:
    """Packed bits of a ±1 value, computed on bits as far up as possible."""
    call = builder.producer(var)
    name = op_name(call)
    if name == "relax.xnortvm.sign":
        own = str(call.attrs["zero"])
        bits = ops.bitpack(call.args[0], groups=groups, zero=zero if own == "0" else own)
        return builder.emit(bits, f"{var.name}_bits")
    if name == "relax.nn.max_pool2d" and str(call.attrs.layout) == "NHWC":
        pooled = ops.bmaxpool2d(
            state.pack(builder, call.args[0], groups, zero),
            pool_size=[int(p) for p in call.attrs.pool_size],
            strides=[int(s) for s in call.attrs.strides],
            padding=[int(p) for p in call.attrs.padding],
            dilation=[int(d) for d in call.attrs.dilation],
            ceil_mode=bool(call.attrs.ceil_mode),
        )
        return builder.emit(pooled, f"{var.name}_bits")
    if name == "relax.reshape":
        before, after = shape_of(call.args[0]), shape_of(var)
        if before and after and _keeps_words(before, after, groups):
            bits = state.pack(builder, call.args[0], groups, zero)
            words = prod(shape_of(bits) or ()) // prod(after[:-1])
            return builder.emit(relax.op.reshape(bits, (*after[:-1], words)), f"{var.name}_bits")
    move = _MOVES.get(name)
    if move is not None and (before := shape_of(call.args[0])) and (after := shape_of(var)):
        bits = state.pack(builder, call.args[0], groups, zero)
        shape = (*after[:-1], (shape_of(bits) or ())[-1])
        moved = move(call, bits, shape) if len(before) == len(after) else None
        if moved is not None and before[-1] == after[-1]:
            return builder.emit(moved, f"{var.name}_bits")
    return builder.emit(ops.bitpack(var, groups=groups, zero=zero), f"{var.name}_bits")


def _repeated(_: Any, bits: Any, shape: tuple[int, ...]) -> Any:
    return relax.op.broadcast_to(bits, shape)


def _taken(call: Any, bits: Any, shape: tuple[int, ...]) -> Any:
    axis = int(call.attrs.axis) % len(shape)
    return relax.op.take(bits, call.args[1], axis) if axis < len(shape) - 1 else None


def _sliced(call: Any, bits: Any, shape: tuple[int, ...]) -> Any:
    axes = [int(axis) % len(shape) for axis in call.args[1].fields]
    if len(shape) - 1 in axes:
        return None
    return ir.Call(call.op, [bits, *call.args[1:]], call.attrs, call.ty_args)


#: Operators that move whole pixels, and so words: from call, packed input and shape to the call
#: on bits, None where they touch the channels.
_MOVES: dict[str, Callable[[Any, Any, tuple[int, ...]], Any]] = {
    "relax.broadcast_to": _repeated,
    "relax.take": _taken,
    "relax.strided_slice": _sliced,
}


def _keeps_words(before: tuple[int, ...], after: tuple[int, ...], groups: int) -> bool:
    """Whether a reshape moves whole words: the channels stay, or fill their words."""
    whole = before[-1] % ops.WORD == 0 and after[-1] % ops.WORD == 0 and groups == 1
    return whole or before[-1] == after[-1]

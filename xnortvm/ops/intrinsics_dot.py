# SPDX-License-Identifier: Apache-2.0
"""Dot products of words of small numbers, as one instruction that also accumulates.

`dot_sum` adds up `dot` of words along reduction axes. Its sums are calls of their own until after
vectorisation, where ``accumulate(sum, dot(word, weights))`` becomes the instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xnortvm._tvm import ir, te, tirx, tvm
from xnortvm.ops.registry import register_tir_op


@dataclass(frozen=True)
class Instruction:
    """A dot product of words.

    Attributes
    ----------
    sums : str
        Type of a sum.
    operands : str
        Type of the operands of the instruction for 16 lanes.
    emit : callable
        From (type of the result, arguments) to a call of it.
    count : int
        Numbers in a word.
    number : callable
        From (word, place, whether it is a weight) to one number of it, in the type of the sums.
    """

    sums: str
    operands: str
    emit: Callable[[str, list[Any]], Any]
    count: int
    number: Callable[[Any, int, bool], Any]


def _shifted(word: Any, left: int, right: int) -> Any:
    dtype = str(word.ty.dtype)
    return (word << _splat(left, dtype)) >> _splat(right, dtype)


def _splat(value: int, dtype: str) -> Any:
    lanes = int(tvm.DataType(dtype).lanes)
    scalar = tirx.const(value, str(tvm.DataType(dtype).with_lanes(1)))
    return tirx.Broadcast(scalar, lanes) if lanes > 1 else scalar


def _byte(word: Any, place: int, weight: bool) -> Any:
    if weight:
        return _shifted(word, 24 - 8 * place, 24)
    dtype = str(word.ty.dtype)
    return (word >> _splat(8 * place, dtype)) & _splat(255, dtype)


def _half(word: Any, place: int, _: bool) -> Any:
    dtype = str(word.ty.dtype)
    bits = word & _splat(-65536, dtype) if place else word << _splat(16, dtype)
    return tirx.reinterpret(dtype.replace("int32", "float32"), bits)


_PREFIX = "tirx.xnortvm_dot_"


def _vpdpbusd(dtype: str, args: list[Any]) -> Any:
    return tirx.call_llvm_pure_intrin(dtype, "llvm.x86.avx512.vpdpbusd.512", *args)


def _vdpbf16ps(dtype: str, args: list[Any]) -> Any:
    return tirx.call_pure_extern(dtype, "xnortvm_dpbf16ps", *args)


INSTRUCTIONS = {
    "u8s8": Instruction("int32", "int8x64", _vpdpbusd, 4, _byte),
    "bf16": Instruction("float32", "int32x16", _vdpbf16ps, 2, _half),
}

#: TVM cannot write LLVM's type bfloat, so this function takes words; a kernel that calls it has
#: a loop with the annotation "pragma_import_llvm".
LLVM_BF16 = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(
  <16 x float>, <32 x bfloat>, <32 x bfloat>)
define linkonce_odr <16 x float> @xnortvm_dpbf16ps(
  <16 x float> %sum, <16 x i32> %a, <16 x i32> %b) alwaysinline {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(
    <16 x float> %sum, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %r
}
"""


def _lower_dot(name: str) -> Callable[[Any], Any]:
    return lambda call: _accumulated(name, call, _splat(0, str(call.ty.dtype)))


def _accumulated(name: str, call: Any, total: Any) -> Any:
    """Return total + dot as the instruction, or one number at a time without 16 lanes."""
    instruction = INSTRUCTIONS[name]
    word, weights = call.args
    dtype = str(call.ty.dtype)
    if dtype == f"{instruction.sums}x16":
        operands = [
            value
            if instruction.operands == str(value.ty.dtype)
            else tirx.reinterpret(instruction.operands, value)
            for value in (word, weights)
        ]
        return instruction.emit(dtype, [total, *operands])
    for place in range(instruction.count):
        number = instruction.number(word, place, False)
        total = total + number * instruction.number(weights, place, True)
    return total


def _lower_accumulate(call: Any) -> Any:
    total, value = call.args
    name = str(getattr(getattr(value, "op", None), "name", "")).removeprefix(_PREFIX)
    return _accumulated(name, value, total) if name in INSTRUCTIONS else total + value


for _name in INSTRUCTIONS:
    register_tir_op(f"{_PREFIX}{_name}", _lower_dot(_name), vectorizable=True)
register_tir_op("tirx.xnortvm_accumulate", _lower_accumulate, vectorizable=True)


def dot(word: Any, weights: Any, name: str) -> Any:
    """Return the sum of the products of the numbers in two words.

    Parameters
    ----------
    word, weights : int32
    name : str
        ``"u8s8"``: four unsigned by four signed bytes, in int32; ``"bf16"``: two by two, in
        float32.
    """
    op = ir.Op.get(f"{_PREFIX}{name}")
    return tirx.call_intrin(INSTRUCTIONS[name].sums, op, word, weights)


#: Adds up `dot` along reduction axes, as ``te.sum`` does.
dot_sum = te.comm_reducer(
    lambda total, value: tirx.call_intrin(
        str(total.ty.dtype), ir.Op.get("tirx.xnortvm_accumulate"), total, value
    ),
    lambda dtype: tirx.const(0, dtype),
    name="dot_sum",
)


def _lower_word(call: Any) -> Any:
    values = call.args
    first = values[0]
    count = len(values)
    indices = list(first.indices)
    one = tirx.const(1, str(indices[-1].ty.dtype))
    indices[-1] = tirx.Ramp(indices[-1], one, count)
    return tirx.reinterpret("int32", tirx.BufferLoad(first.source, indices))


register_tir_op("tirx.xnortvm_word", _lower_word, vectorizable=False)


def word_of(values: Sequence[Any]) -> Any:
    """Return neighbouring 8- or 16-bit numbers of one buffer as one int32."""
    return tirx.call_intrin("int32", ir.Op.get("tirx.xnortvm_word"), *values)

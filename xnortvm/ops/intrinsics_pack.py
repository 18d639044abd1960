# SPDX-License-Identifier: Apache-2.0
"""Signs of 32 values to a word of bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from xnortvm._tvm import ir, tirx, tvm
from xnortvm.ops.intrinsics import _const, _lanes, _splat
from xnortvm.ops.registry import register_tir_op

_MINUS_ZERO, _MINUS_INFINITY = 0x80000000, 0xFF800000


def _is_negative(value: Any, or_zero: bool, lanes: int) -> Any:
    zero = _splat(0, str(tvm.DataType(str(value.ty.dtype)).with_lanes(1)), lanes)
    return value <= zero if or_zero else value < zero


def _is_negative_by_bits(value: Any, or_zero: bool, lanes: int) -> Any:
    """The same where comparing floats takes subnormal numbers as 0, as NEON of armv7 does.

    Of their bits, those of numbers below zero lie between those of −0 and −∞; then comes NaN.
    """
    if not str(value.ty.dtype).startswith("float32"):
        return _is_negative(value, or_zero, lanes)
    bits = tirx.reinterpret(f"uint32x{lanes}", value)
    below = tirx.And(
        bits > _splat(_MINUS_ZERO, "uint32", lanes),
        bits <= _splat(_MINUS_INFINITY, "uint32", lanes),
    )
    if not or_zero:
        return below
    zero = (_splat(value, "uint32", lanes) for value in (0, _MINUS_ZERO))
    return tirx.Or(below, tirx.Or(*(tirx.EQ(bits, each) for each in zero)))


def _vector_load(first: Any, lanes: int) -> Any:
    indices = list(first.indices)
    one = _const(1, str(indices[-1].ty.dtype))
    indices[-1] = tirx.Ramp(indices[-1], one, lanes)
    return tirx.BufferLoad(first.source, indices)


def _pack_scalars(values: Sequence[Any], or_zero: bool, lanes: int) -> Any:
    word = _splat(0, "uint32", lanes)
    for bit, value in enumerate(values):
        one = tirx.Select(
            _is_negative(value, or_zero, lanes),
            _splat(1 << bit, "uint32", lanes),
            _splat(0, "uint32", lanes),
        )
        word = word | one
    return word


def _pack_movmsk(values: Sequence[Any], or_zero: bool, lanes: int) -> Any:
    name = {4: "llvm.x86.sse.movmsk.ps", 8: "llvm.x86.avx.movmsk.ps.256"}[lanes]
    word = None
    for start in range(0, len(values), lanes):
        negative = tirx.Select(
            _is_negative(_vector_load(values[start], lanes), or_zero, lanes),
            _splat(-1, "int32", lanes),
            _splat(0, "int32", lanes),
        )
        mask = tirx.Cast(
            "uint32",
            tirx.call_llvm_pure_intrin(
                "int32", name, tirx.reinterpret(f"float32x{lanes}", negative)
            ),
        )
        word = mask if word is None else word | (mask << _const(start))
    return word


def _pack_reduce(values: Sequence[Any], or_zero: bool, lanes: int) -> Any:
    bits = None
    for start in range(0, len(values), lanes):
        # The bits of one vector of lanes, as a vector constant: 1 << (start + lane).
        lane_bits = _splat(1, "uint32", lanes) << tirx.Cast(
            f"uint32x{lanes}", tirx.Ramp(_const(start, "int32"), _const(1, "int32"), lanes)
        )
        part = tirx.Select(
            _is_negative_by_bits(_vector_load(values[start], lanes), or_zero, lanes),
            lane_bits,
            _splat(0, "uint32", lanes),
        )
        bits = part if bits is None else bits | part
    return tirx.call_llvm_pure_intrin("uint32", f"llvm.vector.reduce.or.v{lanes}i32", bits)


def _pack_mask(values: Sequence[Any], or_zero: bool, lanes: int) -> Any:
    word = None
    for start in range(0, len(values), lanes):
        negative = _is_negative(_vector_load(values[start], lanes), or_zero, lanes)
        # A mask register; `tirx.reinterpret` would refuse, since a bool counts as 8 bits there.
        mask = tirx.call_intrin(f"uint{lanes}", "tirx.reinterpret", negative)
        part = tirx.Cast("uint32", mask)
        word = part if word is None else word | (part << _const(start))
    return word


def _pack_addp(values: Sequence[Any], or_zero: bool) -> Any:
    """Pack 32 values for each lane of the result.

    Masks of 8 and 8 values share a vector, one in the lower and one in the upper bytes of its lanes
    (``sri``); one bit of each byte is kept, and a tree of pairwise additions takes eight lanes to
    one.
    """
    (index,), lanes = values[0].indices, _lanes(values[0])
    first = index.base if lanes > 1 else index
    bits = tirx.Cast("uint8x16", tirx.Ramp(_const(0, "int32"), _const(1, "int32"), 16))
    weights = _splat(1, "uint8", 16) << (bits >> _splat(1, "uint8", 16))

    def load(start: int, count: int) -> Any:
        at = tirx.Ramp(first + start, _const(1, str(first.ty.dtype)), count)
        return tirx.BufferLoad(values[0].source, [at])

    def mask(start: int) -> Any:
        if str(values[0].ty.dtype).startswith("int16"):
            return load(start, 8)
        if or_zero:
            negative = _is_negative(load(start, 8), or_zero, 8)
        else:
            negative = _are_negative([load(start, 4), load(start + 4, 4)])
        return tirx.Select(negative, _splat(-1, "int16", 8), _splat(0, "int16", 8))

    vectors = []
    for start in range(0, 32 * lanes, 16):
        shift = _const(8, "int32")
        both = _neon("vsri", mask(start + 8), mask(start), shift)
        kept = tirx.reinterpret("uint8x16", both) & weights
        vectors.append(tirx.reinterpret("int16x8", kept))
    for _ in range(3):
        left, right = vectors[::2], vectors[1::2] or vectors
        vectors = [_neon("addp", *pair) for pair in zip(left, right, strict=True)]
    words = tirx.reinterpret("uint32x4", vectors[0])
    return words if lanes == 4 else tirx.Shuffle([words], list(range(lanes)))


def _neon(name: str, *args: Any) -> Any:
    return tirx.call_llvm_pure_intrin("int16x8", f"llvm.aarch64.neon.{name}.v8i16", *args)


def _are_negative(halves: Sequence[Any]) -> Any:
    """Return which of twice 4 values are negative, by the upper halves of their bits.

    Of floats, minus 1: as a number with a sign that is below −128 for numbers below zero, and for
    neither zero nor any NaN. It takes one narrowing addition and half a comparison for each
    vector, where comparing floats takes both pipes of a Cortex-A72. The addition is an intrinsic,
    since the bits of −0 wrap around, which TVM promises LLVM they never do.
    """
    floats = str(halves[0].ty.dtype).startswith("float32")
    added, limit = (-1, -128) if floats else (0, 0)
    upper = [
        tirx.call_llvm_pure_intrin(
            "int16x4",
            "llvm.aarch64.neon.addhn.v4i16",
            tirx.reinterpret("int32x4", half),
            _splat(added, "int32", 4),
        )
        for half in halves
    ]
    return tirx.Shuffle(upper, list(range(8))) < _splat(limit, "int16", 8)


_PACK: dict[str, Callable[[Sequence[Any], bool], Any]] = {
    "mask16": lambda values, or_zero: _pack_mask(values, or_zero, 16),
    "movmsk8": lambda values, or_zero: _pack_movmsk(values, or_zero, 8),
    "movmsk4": lambda values, or_zero: _pack_movmsk(values, or_zero, 4),
    "reduce4": lambda values, or_zero: _pack_reduce(values, or_zero, 4),
    "addp": _pack_addp,
    "ballot": lambda values, or_zero: _pack_scalars(values, or_zero, 1),
}


def _are_consecutive(values: Sequence[Any]) -> bool:
    """Whether all values are loads, and those of the next lane follow on those of a lane."""
    if not all(isinstance(value, ir.TensorLoad) for value in values):
        return False
    index = values[0].indices[-1]
    if _lanes(index) == 1:
        return True
    stride = index.stride if isinstance(index, tirx.Ramp) else None
    return isinstance(stride, tirx.IntImm) and int(stride) == len(values)


def _lower_pack(flavour: str) -> Callable[[Any], Any]:
    def lower(call: Any) -> Any:
        flag, *values = call.args
        or_zero = bool(int(flag.value if isinstance(flag, tirx.Broadcast) else flag))
        if not _are_consecutive(values):
            return _pack_scalars(values, or_zero, _lanes(call))
        return _PACK[flavour](values, or_zero)

    return lower


#: Flavours that take masks of 16 bits too.
MASKS_OF_16_BITS = frozenset({"addp"})

#: Flavours that make several words at a time, and how many.
WORDS_AT_ONCE = {"addp": 4}
for _flavour in _PACK:
    _name, _lower = f"tirx.xnortvm_pack_{_flavour}", _lower_pack(_flavour)
    register_tir_op(_name, _lower, vectorizable=_flavour in WORDS_AT_ONCE)


def pack_word(values: Sequence[Any], *, or_zero: bool, flavour: str) -> Any:
    """Return the word whose bit j says that ``values[j]`` is negative.

    Parameters
    ----------
    values : sequence of 32 loads
        Consecutive elements of one buffer, of a 32-bit type; for a flavour of `MASKS_OF_16_BITS`
        int16 as well, whose upper halves are all sign.
    or_zero : bool
        Whether 0 counts as negative.
    flavour : str
        ``"mask16"`` (AVX-512), ``"movmsk8"`` (AVX), ``"movmsk4"`` (SSE), ``"addp"`` (AArch64),
        ``"reduce4"`` (anywhere) or ``"ballot"`` (CUDA, whose kernels replace it).
    """
    op = ir.Op.get(f"tirx.xnortvm_pack_{flavour}")
    return tirx.call_intrin("uint32", op, _const(int(or_zero), "int32"), *values)

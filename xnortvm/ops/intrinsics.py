# SPDX-License-Identifier: Apache-2.0
"""TIR functions that LLVM turns into the instructions packed kernels need.

They are ordinary pure TIR calls until after vectorisation, so schedules see through them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from xnortvm._tvm import ir, tirx, tvm
from xnortvm.ops.registry import register_tir_op

# A byte lane holds the popcounts of this many words: 31 · 8 = 248.
MAX_BYTE_WORDS = 31


def _const(value: int, dtype: str = "uint32") -> Any:
    return tirx.const(value, dtype)


def _lanes(value: Any) -> int:
    return int(tvm.DataType(str(value.ty.dtype)).lanes)


def _splat(value: int, dtype: str, lanes: int) -> Any:
    scalar = _const(value, dtype)
    return tirx.Broadcast(scalar, lanes) if lanes > 1 else scalar


def _lower_popcount_bytes(call: Any) -> Any:
    (value,) = call.args
    as_bytes = tirx.reinterpret(f"uint8x{4 * _lanes(value)}", value)
    return tirx.reinterpret(str(value.ty.dtype), tirx.popcount(as_bytes))


register_tir_op("tirx.xnortvm_popcount_bytes", _lower_popcount_bytes, vectorizable=True)


def popcount_bytes(value: Any) -> Any:
    """Return the popcount of each byte of a uint32, in that byte."""
    return tirx.call_intrin("uint32", ir.Op.get("tirx.xnortvm_popcount_bytes"), value)


_PSHUFB = {
    16: "llvm.x86.ssse3.pshuf.b.128",
    32: "llvm.x86.avx2.pshuf.b",
    64: "llvm.x86.avx512.pshuf.b.512",
}


def _look_up(flavour: str, scale: int) -> Callable[[Any], Any]:
    def lower(call: Any) -> Any:
        row, w, code = call.args
        lanes = _lanes(w)
        if flavour != "pshufb" or lanes not in _PSHUFB:
            return tirx.popcount(tirx.truncdiv(code, _splat(scale, "uint8", lanes)) ^ w)
        kind = f"int8x{lanes}"
        row, w = (tirx.reinterpret(kind, value) for value in (row, w))
        looked_up = tirx.call_llvm_pure_intrin(kind, _PSHUFB[lanes], row, w)
        return tirx.reinterpret(f"uint8x{lanes}", looked_up)

    return lower


for _flavour in ("pshufb", "portable"):
    for _scale in (2, 4, 8):
        _name = f"tirx.xnortvm_table_{_flavour}_{_scale}"
        register_tir_op(_name, _look_up(_flavour, _scale), vectorizable=True)


def table_popcount(row: Any, w: Any, code: Any, *, scale: int, flavour: str) -> Any:
    """Return popcount(a xor w) of two nibbles, looked up.

    Parameters
    ----------
    row : uint8 load
        Row a of the table; vectors are looked up in it.
    w : uint8 expression
        0 … 15.
    code : uint8 expression
        a times ``scale``; computed with where nothing can be looked up.
    scale : {2, 4, 8}
    flavour : str
        ``"pshufb"`` (x86 with vectors of the table's lanes) or ``"portable"``.
    """
    op = ir.Op.get(f"tirx.xnortvm_table_{flavour}_{scale}")
    return tirx.call_intrin("uint8", op, row, w, code)


def _sum_by_shifts(value: Any, lanes: int) -> Any:
    mask, word = _splat(0x00FF00FF, "uint32", lanes), _splat(0xFFFF, "uint32", lanes)
    halves = (value & mask) + ((value >> _splat(8, "uint32", lanes)) & mask)
    return (halves + (halves >> _splat(16, "uint32", lanes))) & word


_MADDUBS = {
    4: ("llvm.x86.ssse3.pmadd.ub.sw.128", "llvm.x86.sse2.pmadd.wd"),
    8: ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"),
    16: ("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512"),
}


def _lower_maddubs(call: Any) -> Any:
    (value,) = call.args
    lanes = _lanes(value)
    if lanes not in _MADDUBS:
        return _sum_by_shifts(value, lanes)
    to_words, to_dwords = _MADDUBS[lanes]
    pairs = tirx.call_llvm_pure_intrin(
        f"int16x{2 * lanes}",
        to_words,
        tirx.reinterpret(f"int8x{4 * lanes}", value),
        tirx.Broadcast(_const(1, "int8"), 4 * lanes),
    )
    quads = tirx.call_llvm_pure_intrin(
        f"int32x{lanes}", to_dwords, pairs, tirx.Broadcast(_const(1, "int16"), 2 * lanes)
    )
    return tirx.reinterpret(f"uint32x{lanes}", quads)


def _lower_uaddlp(call: Any) -> Any:
    (value,) = call.args
    lanes = _lanes(value)
    if lanes != 4:
        return _sum_by_shifts(value, lanes)
    pairs = tirx.call_llvm_pure_intrin(
        "uint16x8", "llvm.aarch64.neon.uaddlp.v8i16.v16i8", tirx.reinterpret("uint8x16", value)
    )
    return tirx.call_llvm_pure_intrin("uint32x4", "llvm.aarch64.neon.uaddlp.v4i32.v8i16", pairs)


def _lower_shifts(call: Any) -> Any:
    (value,) = call.args
    return _sum_by_shifts(value, _lanes(value))


_SUM_BYTES: dict[str, Callable[[Any], Any]] = {
    "maddubs": _lower_maddubs,
    "uaddlp": _lower_uaddlp,
    "shifts": _lower_shifts,
}
for _flavour, _lower in _SUM_BYTES.items():
    register_tir_op(f"tirx.xnortvm_sum_bytes_{_flavour}", _lower, vectorizable=True)


def sum_bytes(value: Any, flavour: str) -> Any:
    """Return the sum of the four bytes of a uint32.

    Parameters
    ----------
    flavour : str
        ``"maddubs"`` (x86 from SSSE3), ``"uaddlp"`` (AArch64) or ``"shifts"`` (anywhere).
    """
    return tirx.call_intrin("uint32", ir.Op.get(f"tirx.xnortvm_sum_bytes_{flavour}"), value)


def _is_negative(value: Any, or_zero: bool, lanes: int) -> Any:
    zero = _splat(0, str(tvm.DataType(str(value.ty.dtype)).with_lanes(1)), lanes)
    return value <= zero if or_zero else value < zero


def _vector_load(first: Any, lanes: int) -> Any:
    indices = list(first.indices)
    one = _const(1, str(indices[-1].ty.dtype))
    indices[-1] = tirx.Ramp(indices[-1], one, lanes)
    return tirx.BufferLoad(first.source, indices)


def _pack_scalars(values: Sequence[Any], or_zero: bool) -> Any:
    word = _const(0)
    for bit, value in enumerate(values):
        word = word | tirx.Select(_is_negative(value, or_zero, 1), _const(1 << bit), _const(0))
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
            _is_negative(_vector_load(values[start], lanes), or_zero, lanes),
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


_PACK: dict[str, Callable[[Sequence[Any], bool], Any]] = {
    "mask16": lambda values, or_zero: _pack_mask(values, or_zero, 16),
    "movmsk8": lambda values, or_zero: _pack_movmsk(values, or_zero, 8),
    "movmsk4": lambda values, or_zero: _pack_movmsk(values, or_zero, 4),
    "reduce4": lambda values, or_zero: _pack_reduce(values, or_zero, 4),
}


def _lower_pack(flavour: str) -> Callable[[Any], Any]:
    def lower(call: Any) -> Any:
        or_zero, values = bool(int(call.args[0])), call.args[1:]
        if not all(isinstance(value, ir.TensorLoad) for value in values):
            return _pack_scalars(values, or_zero)
        return _PACK[flavour](values, or_zero)

    return lower


for _flavour in _PACK:
    register_tir_op(f"tirx.xnortvm_pack_{_flavour}", _lower_pack(_flavour), vectorizable=False)


def pack_word(values: Sequence[Any], *, or_zero: bool, flavour: str) -> Any:
    """Return the word whose bit j says that ``values[j]`` is negative.

    Parameters
    ----------
    values : sequence of 32 loads
        Consecutive elements of one buffer, of a 32-bit type.
    or_zero : bool
        Whether 0 counts as negative.
    flavour : str
        ``"mask16"`` (AVX-512), ``"movmsk8"`` (AVX), ``"movmsk4"`` (SSE) or ``"reduce4"``
        (anywhere).
    """
    op = ir.Op.get(f"tirx.xnortvm_pack_{flavour}")
    return tirx.call_intrin("uint32", op, _const(int(or_zero), "int32"), *values)

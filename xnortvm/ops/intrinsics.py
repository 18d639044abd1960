# SPDX-License-Identifier: Apache-2.0
"""TIR functions that LLVM turns into the instructions packed kernels need.

They are ordinary pure TIR calls until after vectorisation, so schedules see through them.
"""

from __future__ import annotations

from collections.abc import Callable
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

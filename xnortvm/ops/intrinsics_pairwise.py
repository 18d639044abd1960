# SPDX-License-Identifier: Apache-2.0
"""Counts of differing bits of whole vectors, added up pairwise: eight channels in eight lanes.

NEON counts bits in bytes only (``cnt``), and what it counts has to be added once. ``addp`` adds
neighbouring bytes of two vectors, so a tree of seven takes the counts of eight channels, 128 bits
each, to one vector with two bytes for each channel: the addition that is needed anyway also brings
every channel into its lane. ``uadalp`` adds the two bytes to the accumulator. That is three
instructions for 128 bits (8 ``eor``, 8 ``cnt``, 7 ``addp`` and 1 ``uadalp`` for 8 of them), as few
as there can be.

Where a pixel has 64 bits, a vector holds two pixels. The weights lie there twice, and the tree ends
with the count of the first pixel in the low byte of each lane and that of the second in the high
one. Three of them can be added up before they have to be taken apart.

The flavour "portable" is the same in TIR alone: even and odd bytes are shuffled apart and added. On
AArch64 LLVM makes ``addp`` of that again, so it lacks only ``uadalp``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from xnortvm._tvm import ir, tirx, tvm
from xnortvm.ops.registry import register_tir_op

#: 32-bit words of one vector, and output channels of one result.
WORDS, CHANNELS = 4, 8


def _lanes(value: Any) -> int:
    return int(tvm.DataType(str(value.ty.dtype)).lanes)


def _count(bits: Any) -> Any:
    lanes = _lanes(bits)
    return tirx.Cast("uint16" if lanes == 1 else f"uint16x{lanes}", tirx.popcount(bits))


def _differing(args: Sequence[Any], words: int) -> list[Any]:
    """Return (a xor w) of each word, and the mask where there is one."""
    a, w, mask = args[:words], args[words : 2 * words], args[2 * words :]
    bits = [x ^ y for x, y in zip(a, w, strict=True)]
    return [x & y for x, y in zip(bits, mask, strict=True)] if mask else bits


def _add(counts: Sequence[Any]) -> Any:
    total, *rest = counts
    for count in rest:
        total = total + count
    return total


def _by_words(call: Any) -> Any:
    """Return the count one word after the other: right for any number of lanes."""
    return _add([_count(bits) for bits in _differing(call.args, WORDS)])


def _by_pixels(call: Any) -> Any:
    counts = [_count(bits) for bits in _differing(call.args, WORDS)]
    low, high = _add(counts[: WORDS // 2]), _add(counts[WORDS // 2 :])
    byte = tirx.const(8, "uint16")
    lanes = _lanes(low)
    return low + (high << (tirx.Broadcast(byte, lanes) if lanes > 1 else byte))


def _vector(load: Any, first: Any) -> Any:
    """Return the 16 bytes of a buffer of words from element ``first`` on."""
    one = tirx.const(1, str(first.ty.dtype))
    return tirx.reinterpret(
        "uint8x16", tirx.BufferLoad(load.source, [tirx.Ramp(first, one, WORDS)])
    )


def _vectors_of(load: Any) -> list[Any] | None:
    """Return the vectors of eight channels that lie behind each other, None if they do not."""
    if not isinstance(load, ir.TensorLoad) or len(load.indices) != 1:
        return None
    (index,) = load.indices
    if not isinstance(index, tirx.Ramp) or _lanes(load) != CHANNELS:
        return None
    if not isinstance(index.stride, tirx.IntImm) or int(index.stride) != WORDS:
        return None
    return [_vector(load, index.base + WORDS * channel) for channel in range(CHANNELS)]


def _activation_of(value: Any) -> Any:
    """Return the vector that all channels read, None if they read different ones."""
    if isinstance(value, tirx.Broadcast):
        value = value.value
    if isinstance(value, ir.TensorLoad):
        (index, *more) = value.indices
        return None if more or _lanes(index) > 1 else _vector(value, index)
    if not isinstance(value, tirx.BitwiseAnd):
        return None
    one, other = _activation_of(value.a), _activation_of(value.b)
    return None if one is None or other is None else one & other


def _addp(one: Any, other: Any) -> Any:
    return tirx.call_llvm_pure_intrin("uint8x16", "llvm.aarch64.neon.addp.v16i8", one, other)


def _addp_by_shuffles(one: Any, other: Any) -> Any:
    even, odd = (
        tirx.Shuffle([one, other], [tirx.const(i, "int32") for i in range(first, 32, 2)])
        for first in (0, 1)
    )
    return even + odd


def _tree(vectors: list[Any], add: Callable[[Any, Any], Any]) -> Any:
    while len(vectors) > 1:
        vectors = [add(*pair) for pair in zip(vectors[::2], vectors[1::2], strict=True)]
    return vectors[0]


def _counts_of(call: Any, add: Callable[[Any, Any], Any] = _addp) -> Any:
    """Return the two bytes of counts for each channel, None where the arguments do not allow it."""
    a, w, *masks = call.args[::WORDS]
    activation, weights = _activation_of(a), _vectors_of(w)
    if activation is None or weights is None:
        return None
    bits = [activation ^ weight for weight in weights]
    if masks:
        masks = _vectors_of(masks[0])
        if masks is None:
            return None
        bits = [each & mask for each, mask in zip(bits, masks, strict=True)]
    return _tree([tirx.popcount(each) for each in bits], add)


def _lower_addp(call: Any) -> Any:
    counts = _counts_of(call)
    if counts is None:
        return _by_words(call)
    return tirx.call_llvm_pure_intrin("uint16x8", "llvm.aarch64.neon.uaddlp.v8i16.v16i8", counts)


def _lower_addp_pixels(call: Any) -> Any:
    counts = _counts_of(call)
    return _by_pixels(call) if counts is None else tirx.reinterpret("uint16x8", counts)


def _lower_portable(call: Any) -> Any:
    counts = _counts_of(call, _addp_by_shuffles)
    if counts is None:
        return _by_words(call)
    pairs = tirx.reinterpret("uint16x8", counts)
    low, eight = (tirx.Broadcast(tirx.const(value, "uint16"), CHANNELS) for value in (255, 8))
    return (pairs & low) + (pairs >> eight)


def _lower_portable_pixels(call: Any) -> Any:
    counts = _counts_of(call, _addp_by_shuffles)
    return _by_pixels(call) if counts is None else tirx.reinterpret("uint16x8", counts)


_LOWER: dict[str, Callable[[Any], Any]] = {
    "pairwise_addp": _lower_addp,
    "pairwise_portable": _lower_portable,
    "paired_addp": _lower_addp_pixels,
    "paired_portable": _lower_portable_pixels,
}
for _name, _lower in _LOWER.items():
    register_tir_op(f"tirx.xnortvm_{_name}", _lower, vectorizable=True)


def pairwise_popcount(
    a: Sequence[Any], w: Sequence[Any], mask: Sequence[Any], *, flavour: str
) -> Any:
    """Return the number of differing bits of 128, as uint16.

    Parameters
    ----------
    a : sequence of 4 uint32 loads
        Consecutive words of one buffer: all channels read the same.
    w : sequence of 4 uint32 loads
        Consecutive words of one buffer in which the words of the next channel follow.
    mask : sequence of 4 uint32 loads, or of none
        Like ``w``: bits that count.
    flavour : str
        ``"addp"`` (AArch64) or ``"portable"``.
    """
    op = ir.Op.get(f"tirx.xnortvm_pairwise_{flavour}")
    return tirx.call_intrin("uint16", op, *a, *w, *mask)


def paired_popcount(a: Sequence[Any], w: Sequence[Any], *, flavour: str) -> Any:
    """Return the numbers of differing bits of two pixels, as the bytes of a uint16.

    Parameters
    ----------
    a : sequence of 4 uint32 loads
        Consecutive words of one buffer: 64 bits of a pixel and of the next.
    w : sequence of 4 uint32 loads
        The 64 bits of weights twice; the words of the next channel follow in the buffer.
    flavour : str
        ``"addp"`` (AArch64) or ``"portable"``.
    """
    return tirx.call_intrin("uint16", ir.Op.get(f"tirx.xnortvm_paired_{flavour}"), *a, *w)

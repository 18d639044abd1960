# SPDX-License-Identifier: Apache-2.0
"""``relax.xnortvm.bitpack`` and ``relax.xnortvm.threshold_pack``: values to packed signs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xnortvm._tvm import TensorType, te, tirx
from xnortvm.ops.intrinsics_pack import MASKS_OF_16_BITS, WORDS_AT_ONCE, pack_word
from xnortvm.ops.layout import WORD, words
from xnortvm.ops.registry import make_call, register_relax_op, static_shape

if TYPE_CHECKING:
    from xnortvm.schedules.isa import Isa

NAME = "relax.xnortvm.bitpack"
THRESHOLD_NAME = "relax.xnortvm.threshold_pack"


def _packed_type(call: Any) -> TensorType:
    *lead, channels = static_shape(call.args[0])
    groups = int(call.attrs["groups"])
    if channels % groups:
        raise ValueError(f"{channels} channels cannot be packed in {groups} groups")
    return TensorType((*lead, groups * words(channels // groups)), "uint32")


register_relax_op(NAME, ["x"], _packed_type)
register_relax_op(THRESHOLD_NAME, ["acc", "threshold", "flip"], _packed_type)


def bitpack(x: Any, *, groups: int = 1, zero: str = "+1") -> Any:
    """Return a call that packs signs: bit 1 where ``x < 0`` (``x <= 0`` with zero="-1").

    Parameters
    ----------
    x : relax.Expr
        (..., C) float32.
    groups : int
        Every C / groups channels start a new word.
    zero : {"+1", "-1", "0"}
        What 0 counts as; "0" is a ternary sign whose zeros are taken as +1, and counted by
        `xnortvm.verify`.
    """
    if zero not in ("+1", "-1", "0"):
        raise ValueError(f'zero is "+1", "-1" or "0", not {zero!r}')
    return make_call(NAME, [x], groups=groups, zero=zero)


def threshold_pack(acc: Any, threshold: Any, flip: Any, *, groups: int = 1) -> Any:
    """Return a call that packs ``(acc ^ flip) < threshold``.

    Parameters
    ----------
    acc : relax.Expr
        (..., C) int32 accumulator.
    threshold, flip : relax.Expr
        int32, broadcastable to ``acc``; ``flip`` is 0 or −1 (the order of integers reversed).
    """
    return make_call(THRESHOLD_NAME, [acc, threshold, flip], groups=groups)


def pack_te(x: Any, *, groups: int, or_zero: bool, flavour: str) -> Any:
    """Return the packed words of a tensor expression (..., C), of a type that `pack_word` takes.

    Channels that do not fill whole words go through a padded copy, whose padding is positive.
    """
    *lead, channels = (int(dim) for dim in x.shape)
    per_group = channels // groups
    per_word = words(per_group)
    if per_group % WORD:
        width, positive = per_word * WORD, tirx.const(1, str(x.dtype))

        def padded(*index: Any) -> Any:
            channel = index[-1] % width if groups > 1 else index[-1]
            skipped = index[-1] // width * per_group if groups > 1 else 0
            value = x(*index[:-1], skipped + channel)
            return tirx.if_then_else(channel < per_group, value, positive)

        x = te.compute(
            (*lead, groups * width), padded, name="pack_pad", attrs={"xnortvm.op": "pack_pad"}
        )

    def word(*index: Any) -> Any:
        values = [x(*index[:-1], index[-1] * WORD + bit) for bit in range(WORD)]
        return pack_word(values, or_zero=or_zero, flavour=flavour)

    shape = (*lead, groups * per_word)
    marks = {
        "xnortvm.op": "pack",
        "xnortvm.words": WORDS_AT_ONCE.get(flavour, 1),
        "xnortvm.groups": groups,
        "xnortvm.or_zero": int(or_zero),
    }
    return te.compute(shape, word, name="pack", attrs=marks)


def bitpack_te(x: Any, *, groups: int, zero: str, flavour: str) -> Any:
    """Return the tensor expression of `bitpack`."""
    if str(x.dtype) not in ("float32", "int32"):
        x = te.compute(x.shape, lambda *i: x(*i).astype("float32"), name="to_float")
    return pack_te(x, groups=groups, or_zero=zero == "-1", flavour=flavour)


def threshold_pack_te(acc: Any, threshold: Any, flip: Any, *, groups: int, flavour: str) -> Any:
    """Return the tensor expression of `threshold_pack`."""

    dtype = "int16" if flavour in MASKS_OF_16_BITS else "int32"

    def at(tensor: Any, index: tuple[Any, ...]) -> Any:
        dims = tensor.shape
        tail = index[len(index) - len(dims) :]
        return tensor(*(0 if int(dim) == 1 else i for dim, i in zip(dims, tail, strict=True)))

    def below(*index: Any) -> Any:
        is_below = (acc(*index) ^ at(flip, index)) < at(threshold, index)
        return tirx.Select(is_below, tirx.const(-1, dtype), tirx.const(0, dtype))

    values = te.compute(acc.shape, below, name="below", attrs={"xnortvm.op": "threshold"})
    return pack_te(values, groups=groups, or_zero=False, flavour=flavour)


def legalize(bb: Any, call: Any, isa: Isa) -> Any:
    """Lower a call of `bitpack` to TIR."""
    groups, zero = int(call.attrs["groups"]), str(call.attrs["zero"])
    return bb.call_te(
        lambda x: bitpack_te(x, groups=groups, zero=zero, flavour=isa.pack),
        call.args[0],
        primfunc_name_hint="xnortvm_bitpack",
    )


def legalize_threshold(bb: Any, call: Any, isa: Isa) -> Any:
    """Lower a call of `threshold_pack` to TIR."""
    groups = int(call.attrs["groups"])
    return bb.call_te(
        lambda acc, t, flip: threshold_pack_te(acc, t, flip, groups=groups, flavour=isa.pack),
        *call.args,
        primfunc_name_hint="xnortvm_threshold_pack",
    )

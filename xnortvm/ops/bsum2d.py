# SPDX-License-Identifier: Apache-2.0
"""``relax.xnortvm.bsum2d``: sums of packed ±1 activations over the window of a convolution.

Weights of two values that are not symmetric about 0 are ``s · sign + t``, and

    conv(v, s · sign + t) = s · bconv2d(v, sign) + t · (sum of v over the window)

The sum of one pixel is C − 2·popcount, so all output channels together cost one popcount for each
word of the input, and the window adds up pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xnortvm._tvm import TensorType, te, tirx
from xnortvm.ops.channels import group_of
from xnortvm.ops.layout import output_size, words
from xnortvm.ops.registry import make_call, register_relax_op, static_shape

NAME = "relax.xnortvm.bsum2d"


def _sizes(call: Any) -> tuple[int, int, int]:
    _, height, width, _ = static_shape(call.args[0])
    attrs = call.attrs
    top, left, bottom, right = (int(p) for p in attrs["padding"])
    rows, columns = (
        output_size(
            size,
            int(attrs["kernel"][i]),
            int(attrs["strides"][i]),
            before,
            after,
            int(attrs["dilation"][i]),
        )
        for i, (size, before, after) in enumerate(((height, top, bottom), (width, left, right)))
    )
    return rows, columns, int(attrs["outputs"]) if int(attrs["groups"]) > 1 else 1


def _infer_type(call: Any) -> TensorType:
    return TensorType((static_shape(call.args[0])[0], *_sizes(call)), "float32")


register_relax_op(NAME, ["a"], _infer_type)


def bsum2d(
    a: Any,
    *,
    channels: int,
    outputs: int,
    kernel: Sequence[int],
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
    offset: int = 0,
) -> Any:
    """Return a call that adds up windows of packed signs.

    Parameters
    ----------
    a : relax.Expr
        (N, H, W, G · ceil(C / G / 32)) uint32, bit 1 is −1.
    channels, outputs : int
        Input and output channels of the convolution, of all groups.
    padding : (top, left, bottom, right)
    pad_value : {0, 1, -1}
    offset : int
        The activations are v + offset for the signs v.

    Returns
    -------
    relax.Call
        (N, OH, OW, 1) float32, whole numbers; (N, OH, OW, O) where there are groups.
    """
    return make_call(
        NAME,
        [a],
        channels=int(channels),
        outputs=int(outputs),
        kernel=[int(k) for k in kernel],
        strides=[int(s) for s in strides],
        padding=[int(p) for p in padding],
        dilation=[int(d) for d in dilation],
        groups=int(groups),
        pad_value=int(pad_value),
        offset=int(offset),
    )


def bsum2d_te(
    a: Any,
    size: tuple[int, int, int],
    *,
    channels: int,
    outputs: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
    pad_value: int,
    offset: int,
) -> Any:
    """Return the tensor expression of `bsum2d`, (N, *size)."""
    images, height, width, _ = (int(dim) for dim in a.shape)
    per_group, count = channels // groups, words(channels // groups)
    word = te.reduce_axis((0, count), "word")
    bits = te.compute(
        (images, height, width, groups),
        lambda n, y, x, g: te.sum(
            tirx.popcount(a[n, y, x, g * count + word]).astype("int32"), axis=[word]
        ),
        name="bits",
        attrs={"xnortvm.op": "bsum2d.bits"},
    )
    ky, kx = (te.reduce_axis((0, extent), f"k{i}") for i, extent in enumerate(kernel))
    outside = tirx.const((pad_value + offset) * per_group if pad_value else 0, "int32")
    whole = tirx.const((1 + offset) * per_group, "int32")

    def window(n: Any, y: Any, x: Any, o: Any) -> Any:
        row = y * strides[0] + ky * dilation[0] - padding[0]
        column = x * strides[1] + kx * dilation[1] - padding[1]
        group = group_of(o, outputs, groups, outputs)
        pixel = whole - tirx.const(2, "int32") * bits[n, row, column, group]
        if any(padding):
            inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
            pixel = tirx.if_then_else(inside, pixel, outside)
        return te.sum(pixel, axis=[ky, kx])

    sums = te.compute((images, *size), window, name="sums", attrs={"xnortvm.op": "bsum2d"})
    return te.compute(sums.shape, lambda *i: sums(*i).astype("float32"), name="bsum2d")


def legalize(bb: Any, call: Any) -> Any:
    """Lower a call of `bsum2d` to TIR."""
    attrs = call.attrs
    lists = {
        key: tuple(int(v) for v in attrs[key])
        for key in ("kernel", "strides", "padding", "dilation")
    }
    numbers = {
        key: int(attrs[key]) for key in ("channels", "outputs", "groups", "pad_value", "offset")
    }
    size = _sizes(call)
    return bb.call_te(
        lambda a: bsum2d_te(a, size, **lists, **numbers),  # type: ignore[arg-type]
        call.args[0],
        primfunc_name_hint="xnortvm_bsum2d",
    )

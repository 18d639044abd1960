# SPDX-License-Identifier: Apache-2.0
"""``relax.xnortvm.bmaxpool2d``: max-pool of packed signs.

The largest of several signs is +1 unless all are −1, and −1 is bit 1: a bitwise AND. Padding
reads as bits 1 and so never wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xnortvm._tvm import TensorType, te, tirx
from xnortvm.ops.registry import make_call, register_relax_op, static_shape

NAME = "relax.xnortvm.bmaxpool2d"


def pooled_size(
    size: int, window: int, stride: int, before: int, after: int, dilation: int, ceil_mode: bool
) -> int:
    """Return the output size of a pool along one axis; the last window starts inside."""
    span = size + before + after - dilation * (window - 1) - 1
    count = (-(-span // stride) if ceil_mode else span // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + before:
        count -= 1
    return count


def _sizes(call: Any) -> tuple[int, int]:
    _, height, width, _ = static_shape(call.args[0])
    attrs = call.attrs
    top, left, bottom, right = (int(p) for p in attrs["padding"])
    return tuple(
        pooled_size(
            size,
            int(attrs["pool_size"][i]),
            int(attrs["strides"][i]),
            before,
            after,
            int(attrs["dilation"][i]),
            bool(attrs["ceil_mode"]),
        )
        for i, (size, before, after) in enumerate(((height, top, bottom), (width, left, right)))
    )  # type: ignore[return-value]


def _infer_type(call: Any) -> TensorType:
    images, _, _, packed = static_shape(call.args[0])
    return TensorType((images, *_sizes(call), packed), "uint32")


register_relax_op(NAME, ["a"], _infer_type)


def bmaxpool2d(
    a: Any,
    *,
    pool_size: Sequence[int],
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Any:
    """Return a call that pools packed signs (N, H, W, words) uint32.

    Parameters
    ----------
    padding : (top, left, bottom, right)
    """
    return make_call(
        NAME,
        [a],
        pool_size=[int(p) for p in pool_size],
        strides=[int(s) for s in strides],
        padding=[int(p) for p in padding],
        dilation=[int(d) for d in dilation],
        ceil_mode=bool(ceil_mode),
    )


def bmaxpool2d_te(
    a: Any,
    *,
    size: tuple[int, int],
    pool_size: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> Any:
    """Return the tensor expression of `bmaxpool2d`."""
    images, height, width, packed = (int(dim) for dim in a.shape)
    ones = tirx.const(0xFFFFFFFF, "uint32")
    both = te.comm_reducer(lambda x, y: x & y, lambda _: ones, name="bits_and")
    ky, kx = (te.reduce_axis((0, extent), f"k{i}") for i, extent in enumerate(pool_size))

    def window(n: Any, y: Any, x: Any, c: Any) -> Any:
        row = y * strides[0] + ky * dilation[0] - padding[0]
        column = x * strides[1] + kx * dilation[1] - padding[1]
        inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
        return both(tirx.if_then_else(inside, a[n, row, column, c], ones), axis=[ky, kx])

    return te.compute(
        (images, *size, packed), window, name="bmaxpool2d", attrs={"xnortvm.op": "bmaxpool2d"}
    )


def legalize(bb: Any, call: Any) -> Any:
    """Lower a call of `bmaxpool2d` to TIR."""
    numbers = {
        key: tuple(int(v) for v in call.attrs[key])
        for key in ("pool_size", "strides", "padding", "dilation")
    }
    size = _sizes(call)
    return bb.call_te(
        lambda a: bmaxpool2d_te(a, size=size, **numbers),  # type: ignore[arg-type]
        call.args[0],
        primfunc_name_hint="xnortvm_bmaxpool2d",
    )

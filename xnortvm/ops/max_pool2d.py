# SPDX-License-Identifier: Apache-2.0
"""``relax.nn.max_pool2d`` of floats on AArch64: by ``fmax``.

TVM writes a maximum as a comparison and a choice, which LLVM may not take for ``fmax``: that gives
a NaN where either operand is one, as PyTorch's pooling does; a choice gives it for one of them. Two
instructions become one, and the chain through nine taps half as long.
"""

from __future__ import annotations

from typing import Any

from xnortvm._tvm import ir, te, tirx, topi
from xnortvm.ops.intrinsics import _lanes
from xnortvm.ops.registry import register_tir_op, static_shape

NAME = "relax.nn.max_pool2d"
_FMAX = "tirx.xnortvm_fmax"


def _lower(call: Any) -> Any:
    lanes = _lanes(call)
    dtype, suffix = ("float32", "f32") if lanes == 1 else (f"float32x{lanes}", f"v{lanes}f32")
    return tirx.call_llvm_pure_intrin(dtype, f"llvm.maximum.{suffix}", *call.args)


register_tir_op(_FMAX, _lower, vectorizable=True)


def _fmax(one: Any, other: Any) -> Any:
    return tirx.call_intrin("float32", ir.Op.get(_FMAX), one, other)


def _lowest(dtype: str) -> Any:
    return tirx.FloatImm(dtype, float("-inf"))


def max_pool2d_te(
    x: Any,
    *,
    size: tuple[int, int],
    pool_size: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> Any:
    """Return the tensor expression; ``size`` is that of the output map.

    Parameters
    ----------
    x : te.Tensor
        (N, H, W, C) float32.
    padding : (top, left, bottom, right)
    """
    images, height, width, channels = (int(dim) for dim in x.shape)
    top, left, _, _ = padding
    # What a window that starts on the map reads beyond it: with ceil_mode more than the padding.
    ends = [
        (count - 1) * stride + (window - 1) * step + 1
        for count, stride, window, step in zip(size, strides, pool_size, dilation, strict=True)
    ]
    below, right = max(0, ends[0] - top - height), max(0, ends[1] - left - width)
    if any((top, left, below, right)):
        x = topi.nn.pad(x, [0, top, left, 0], [0, below, right, 0], _lowest("float32"), "pad_temp")
    taps = [te.reduce_axis((0, window), f"r{i}") for i, window in enumerate(pool_size)]
    largest = te.comm_reducer(_fmax, _lowest, name="fmax")

    def element(n: Any, y: Any, i: Any, c: Any) -> Any:
        row = y * strides[0] + taps[0] * dilation[0]
        column = i * strides[1] + taps[1] * dilation[1]
        return largest(x(n, row, column, c), axis=taps)

    return te.compute((images, *size, channels), element, name="pool_max")


def legalize(bb: Any, call: Any) -> Any:
    """Lower a call to TIR: floats, channels last, here; everything else as TVM does."""
    attrs = call.attrs
    layouts = {str(attrs.layout), str(attrs.out_layout) or str(attrs.layout)}
    if layouts != {"NHWC"} or str(call.ty.dtype) != "float32":
        return call.op.get_attr("FLegalize")(bb, call)
    form: dict[str, Any] = {
        name: tuple(int(value) for value in getattr(attrs, name))
        for name in ("pool_size", "strides", "padding", "dilation")
    }
    _, rows, columns, _ = static_shape(call)
    return bb.call_te(
        lambda x: max_pool2d_te(x, size=(rows, columns), **form),
        call.args[0],
        primfunc_name_hint="max_pool2d",
    )

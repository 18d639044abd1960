# SPDX-License-Identifier: Apache-2.0
"""``relax.nn.conv2d`` in floats, NHWC with constant OHWI weights, in the packed kernels' form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from xnortvm._tvm import ir, relax, te, tirx
from xnortvm.ops.channels import blocked_weight, group_of, lane_of
from xnortvm.ops.layout import output_size
from xnortvm.ops.padding import pad_image
from xnortvm.ops.problem import Problem, sum_te
from xnortvm.ops.registry import constant_value

if TYPE_CHECKING:
    from xnortvm.schedules.isa import Isa

NAME = "relax.nn.conv2d"


def conv2d_te(
    x: Any,
    w: Any,
    *,
    outputs: int,
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
    isa: Isa,
    channels_last: bool = True,
) -> Any:
    """Return the tensor expression.

    Parameters
    ----------
    x : te.Tensor
        (N, H, W, C) float; (N, C, H, W) without `channels_last`.
    w : te.Tensor
        (O / lanes, KH, KW, C / groups, lanes), made by `float_weights`.

    Notes
    -----
    Maps of odd width are computed wider (`Isa.float_columns`), reading zeros on the right.
    """
    if isa.popcount == "plain":
        return sum_te(x, w, _problem(x, w, strides, padding, dilation, groups), "conv2d")
    dtype = str(x.dtype)
    size = [int(dim) for dim in x.shape]
    images, (height, width) = size[0], size[1:3] if channels_last else size[2:]
    _, kernel_h, kernel_w, per_group, _ = (int(dim) for dim in w.shape)
    top, left, bottom, right = padding
    rows = output_size(height, kernel_h, strides[0], top, bottom, dilation[0])
    columns = output_size(width, kernel_w, strides[1], left, right, dilation[1])
    channels = int(w.shape[0]) * isa.lanes
    computed = columns
    if rows * columns > 1 and not (columns % 2 == 0 and rows % 2 == 0):
        computed = -(-columns // isa.float_columns) * isa.float_columns
    needed = (computed - 1) * strides[1] + dilation[1] * (kernel_w - 1) + 1
    right = max(right, needed - left - width)
    padded = pad_image(
        x, (top, left, bottom, right), lambda _: tirx.const(0, dtype), channels_last=channels_last
    )
    ky, kx, c = (
        te.reduce_axis((0, extent), name)
        for extent, name in ((kernel_h, "ky"), (kernel_w, "kx"), (per_group, "c"))
    )

    def product(n: Any, y: Any, i: Any, o: Any) -> Any:
        block, lane = lane_of(o, isa.lanes)
        row, column = y * strides[0] + ky * dilation[0], i * strides[1] + kx * dilation[1]
        channel = group_of(o, outputs, groups, channels) * per_group + c
        value = (
            padded[n, row, column, channel] if channels_last else padded[n, channel, row, column]
        )
        return te.sum(value * w[block, ky, kx, c, lane], axis=[ky, kx, c])

    shape = (images, rows, computed, channels)
    result = te.compute(shape, product, name="conv2d", attrs={"xnortvm.op": "conv2d"})
    if (computed, channels) == (columns, outputs):
        return result
    return te.compute(
        (images, rows, columns, outputs),
        lambda *index: result(*index),
        name="real_part",
        attrs={"xnortvm.op": "accumulator"},
    )


def _problem(
    x: Any,
    w: Any,
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Problem:
    images, height, width, _ = (int(dim) for dim in x.shape)
    outputs, kernel_h, kernel_w, channels = (int(dim) for dim in w.shape)
    return Problem(
        images,
        height,
        width,
        channels,
        outputs,
        groups,
        (kernel_h, kernel_w),
        strides,
        dilation,
        padding,
        packed=False,
    )


def float_weights(weight: NDArray[Any], isa: Isa) -> NDArray[Any]:
    """Return weights (O, …) as the kernels of an instruction set read them."""
    return weight if isa.popcount == "plain" else blocked_weight(weight, isa.lanes)


def legalize(bb: Any, call: Any, isa: Isa) -> Any:
    """Lower an NHWC convolution by constant weights to TIR; TVM's own rule does the others."""
    attrs = call.attrs
    weight = constant_value(call.args[1])
    ours = (
        str(attrs.data_layout) == "NHWC"
        and str(attrs.kernel_layout) == "OHWI"
        and str(attrs.out_layout) in ("", "NHWC")
        and weight is not None
        and {str(call.ty.dtype), str(call.args[0].ty.dtype)} == {"float32"}
    )
    if not ours:
        return ir.Op.get(NAME).get_attr("FLegalize")(bb, call)
    strides, padding, dilation = (
        tuple(int(value) for value in values)
        for values in (attrs.strides, attrs.padding, attrs.dilation)
    )
    groups = int(attrs.groups)
    return bb.call_te(
        lambda x, w: conv2d_te(
            x,
            w,
            outputs=weight.shape[0],
            strides=strides,  # type: ignore[arg-type]
            padding=padding,  # type: ignore[arg-type]
            dilation=dilation,  # type: ignore[arg-type]
            groups=groups,
            isa=isa,
        ),
        call.args[0],
        relax.const(float_weights(weight, isa)),
        primfunc_name_hint="xnortvm_conv2d",
    )

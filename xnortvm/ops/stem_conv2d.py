# SPDX-License-Identifier: Apache-2.0
"""``relax.xnortvm.stem_conv2d``: a float convolution near the input, by one of several methods.

It reads the image in the user's order of dimensions, so no transpose stands before it, and gives
(N, rows, columns, O) float32. ``method`` says how:

========  ==========================================================================
exact     fp32, every product of the definition
winograd  fp32, fewer products (`xnortvm.ops.stem_winograd`)
bf16      image and weights rounded to 8 bits of mantissa, sums in fp32
int8      image in 256 steps, weights in 255 for each output channel, sums exact
========  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from xnortvm._tvm import TensorType, relax
from xnortvm.ops import stem_reference, stem_rows, stem_winograd
from xnortvm.ops.channels import blocked_weight
from xnortvm.ops.conv2d import conv2d_te
from xnortvm.ops.layout import output_size
from xnortvm.ops.registry import constant_value, make_call, register_relax_op, static_shape
from xnortvm.ops.winograd_tile import Axis, group_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xnortvm.schedules.isa import Isa

NAME = "relax.xnortvm.stem_conv2d"

#: Methods whose result is not that of the definition within the bound for floats.
ROUNDING = frozenset({"bf16", "int8"})


def map_of(call: Any) -> tuple[int, int]:
    """Return the rows and columns of the output map."""
    attrs = call.attrs
    size = static_shape(call.args[0])
    height, width = size[1:3] if attrs["layout"] == "NHWC" else size[2:]
    _, kernel_h, kernel_w, _ = static_shape(call.args[1])
    top, left, bottom, right = (int(p) for p in attrs["padding"])
    strides, dilation = attrs["strides"], attrs["dilation"]
    return (
        output_size(height, kernel_h, int(strides[0]), top, bottom, int(dilation[0])),
        output_size(width, kernel_w, int(strides[1]), left, right, int(dilation[1])),
    )


def _infer(call: Any) -> TensorType:
    images, outputs = static_shape(call.args[0])[0], static_shape(call.args[1])[0]
    return TensorType((images, *map_of(call), outputs), "float32")


register_relax_op(NAME, ["x", "w"], _infer)


def stem_conv2d(x: Any, weight: Any, *, method: str = "exact", **attributes: Any) -> Any:
    """Return a call.

    Parameters
    ----------
    x : relax.Expr
        (N, C, H, W) or (N, H, W, C) float32.
    weight : relax.Expr
        (O, KH, KW, C / groups) float32 constant.
    method : str
    **attributes
        ``strides``, ``padding`` (top, left, bottom, right), ``dilation``, ``groups``, ``layout``
        ("NCHW" or "NHWC"), ``layer``; for winograd ``tile`` (rows, columns), for int8 ``scale``
        and ``zero`` of the image (`stem_rows.Quantum`).
    """
    return make_call(NAME, [x, weight], method=method, **attributes)


def attributes_of(call: Any) -> dict[str, Any]:
    """Return the attributes of a call as plain data."""
    return plain_attributes(call.attrs)


def plain_attributes(attrs: Any) -> dict[str, Any]:
    """Return attributes as plain data."""
    plain = {"strides", "padding", "dilation", "tile"}
    values = {str(key): value for key, value in attrs.items()}
    return {
        key: [int(v) for v in value]
        if key in plain
        else str(value)
        if key in ("layout", "layer", "method")
        else float(value)
        if key == "scale"
        else int(value)
        for key, value in values.items()
    }


def axes_of(call: Any) -> tuple[Axis, Axis]:
    """Return what Winograd's method needs to know of rows and columns."""
    attrs = attributes_of(call)
    size = static_shape(call.args[0])
    image = size[1:3] if attrs["layout"] == "NHWC" else size[2:]
    return stem_reference.axes_of(attrs, image, static_shape(call.args[1])[1:3])


def _exact(bb: Any, call: Any, weight: NDArray[Any], isa: Isa) -> Any:
    attrs = attributes_of(call)
    return bb.call_te(
        lambda x, w: conv2d_te(
            x,
            w,
            outputs=weight.shape[0],
            strides=tuple(attrs["strides"]),  # type: ignore[arg-type]
            padding=tuple(attrs["padding"]),  # type: ignore[arg-type]
            dilation=tuple(attrs["dilation"]),  # type: ignore[arg-type]
            groups=attrs["groups"],
            isa=isa,
            channels_last=attrs["layout"] == "NHWC",
        ),
        call.args[0],
        relax.const(blocked_weight(weight, isa.lanes)),
        primfunc_name_hint="xnortvm_conv2d",
    )


def _winograd(bb: Any, call: Any, weight: NDArray[Any], isa: Isa) -> Any:
    attrs, axes = attributes_of(call), axes_of(call)
    blocked = stem_winograd.blocked_winograd_weight(weight, *axes, isa.lanes)
    return bb.call_te(
        lambda x, w: stem_winograd.winograd_te(
            x,
            w,
            outputs=weight.shape[0],
            padding=(attrs["padding"][0], attrs["padding"][1]),
            channels_last=attrs["layout"] == "NHWC",
            axes=axes,
            group=group_of(axes[1].tiles, isa.float_registers - 1),
            lanes=isa.lanes,
        ),
        call.args[0],
        relax.const(blocked),
        primfunc_name_hint="xnortvm_winograd",
    )


def _bf16(bb: Any, call: Any, weight: NDArray[Any], isa: Isa) -> Any:
    words = stem_rows.row_words(stem_rows.bf16_bits(weight), "bf16", isa.lanes)
    return bb.call_te(
        lambda x, w: stem_rows.rows_te(x, w, name="bf16", quantum=None, **_rows(call, weight, isa)),
        call.args[0],
        relax.const(words),
        primfunc_name_hint="xnortvm_bf16",
    )


def _int8(bb: Any, call: Any, weight: NDArray[Any], isa: Isa) -> Any:
    quantum = quantum_of(call)
    numbers, scale = stem_rows.quantised_weight(weight)
    base = quantum.zero * numbers.astype(np.int32).sum(axis=(1, 2, 3), dtype=np.int32)
    return bb.call_te(
        lambda x, w, base, scale: stem_rows.scaled_te(
            stem_rows.rows_te(x, w, name="int8", quantum=quantum, **_rows(call, weight, isa)),
            base,
            scale,
        ),
        call.args[0],
        relax.const(stem_rows.row_words(numbers, "int8", isa.lanes)),
        relax.const(base.astype(np.int32)),
        relax.const((scale * np.float32(quantum.scale)).astype(np.float32)),
        primfunc_name_hint="xnortvm_int8",
    )


def quantum_of(call: Any) -> stem_rows.Quantum:
    """Return the steps of the image of an int8 call."""
    attrs = attributes_of(call)
    return stem_rows.Quantum(attrs["scale"], attrs["zero"])


def _rows(call: Any, weight: NDArray[Any], isa: Isa) -> dict[str, Any]:
    attrs = attributes_of(call)
    return {
        "outputs": weight.shape[0],
        "kernel": weight.shape[1:3],
        "strides": tuple(attrs["strides"]),
        "padding": tuple(attrs["padding"]),
        "channels_last": attrs["layout"] == "NHWC",
        "isa": isa,
    }


METHODS: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "exact": _exact,
    "winograd": _winograd,
    "bf16": _bf16,
    "int8": _int8,
}


def legalize(bb: Any, call: Any, isa: Isa) -> Any:
    """Lower a call to TIR by its method."""
    weight = constant_value(call.args[1])
    return METHODS[str(call.attrs["method"])](bb, call, weight, isa)

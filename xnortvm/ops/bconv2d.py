# SPDX-License-Identifier: Apache-2.0
"""``relax.xnortvm.bconv2d``: convolution of packed ±1 activations with packed ±1 weights.

The accumulator. Let a bit 1 mean −1. Two signs multiply to −1 exactly when their bits differ, so
over K positions ``dot = (K − differing) − differing = K − 2·popcount(a xor w)``. Bits that pad a
word are 0 in both operands and never differ. Spatial padding by +1 is bit 0, by −1 bit 1. Zero
padding is read as bit 0, which adds the padded weights' signs to the sum; ``base`` subtracts
them, from a table with one entry per border class of rows and of columns:
``acc = base[row class, column class, o] − 2·popcount``, exact in int32 for any K.

Weights that are 0 are masked, ``popcount((a xor w) and mask)``, and not counted in ``base``. That
is also how groups of few channels are computed: several of them as one, whose weights are 0 for the
channels of the others, so that a whole vector of output channels reads the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from xnortvm._tvm import TensorType, relax, te, tirx
from xnortvm.ops.channels import group_of, lane_of
from xnortvm.ops.dot import differing, differing_bits, spread, twice
from xnortvm.ops.dot_form import Form, Shape, form_of
from xnortvm.ops.dot_weights import kernel_weights
from xnortvm.ops.layout import (
    BorderClasses,
    border_classes,
    is_masked,
    minus_one_words,
    output_size,
    words,
)
from xnortvm.ops.padding import pad_image
from xnortvm.ops.problem import Problem, sum_te
from xnortvm.ops.registry import constant_value, make_call, register_relax_op, static_shape
from xnortvm.schedules.decisions import decided
from xnortvm.schedules.tiling import computed_columns, least_columns

if TYPE_CHECKING:
    from xnortvm.schedules.isa import Isa

NAME = "relax.xnortvm.bconv2d"


def _sizes(call: Any) -> tuple[int, int]:
    _, height, width, _ = static_shape(call.args[0])
    _, kernel_h, kernel_w, _ = static_shape(call.args[1])
    strides, dilation = call.attrs["strides"], call.attrs["dilation"]
    top, left, bottom, right = call.attrs["padding"]
    rows = output_size(height, kernel_h, strides[0], top, bottom, dilation[0])
    columns = output_size(width, kernel_w, strides[1], left, right, dilation[1])
    return int(rows), int(columns)


def _infer_type(call: Any) -> TensorType:
    images, _, _, packed = static_shape(call.args[0])
    outputs, _, _, per_group = static_shape(call.args[1])
    channels, groups = int(call.attrs["channels"]), int(call.attrs["groups"])
    if channels % groups or outputs % groups:
        raise ValueError(f"{channels} → {outputs} channels do not divide into {groups} groups")
    needed = words(channels // groups)
    if per_group not in (needed, 2 * needed) or packed != groups * needed:
        raise ValueError(f"{channels} channels in {groups} groups do not fill {packed} words")
    return TensorType((images, *_sizes(call), outputs), "int32")


register_relax_op(NAME, ["a", "w", "base"], _infer_type)


def bconv2d(
    a: Any,
    w: Any,
    base: Any,
    *,
    channels: int,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
    offset: int = 0,
    layer: str = "",
) -> Any:
    """Return a call that convolves packed signs.

    Parameters
    ----------
    a : relax.Expr
        (N, H, W, G · ceil(C / G / 32)) uint32, bit 1 is −1.
    w : relax.Expr
        (O, KH, KW, ceil(C / G / 32)) uint32, constant; twice as many words with a mask, see
        `xnortvm.ops.pack_weights`.
    base : relax.Expr
        (RC, CC, O) int32, constant; `xnortvm.ops.border_base`.
    channels : int
        Input channels of all groups.
    padding : (top, left, bottom, right)
    pad_value : {0, 1, -1}
    offset : int
        The activations are v + offset for the signs v; ``base`` holds what that adds.
    layer : str
        Name of the layer in the user's model.

    Returns
    -------
    relax.Call
        (N, OH, OW, O) int32, the exact accumulator.
    """
    if pad_value not in (0, 1, -1):
        raise ValueError(f"signs are padded with 0, 1 or -1, not {pad_value}")
    return make_call(
        NAME,
        [a, w, base],
        channels=int(channels),
        strides=[int(s) for s in strides],
        padding=[int(p) for p in padding],
        dilation=[int(d) for d in dilation],
        groups=int(groups),
        pad_value=int(pad_value),
        offset=int(offset),
        layer=layer,
    )


def _class_index(position: Any, classes: BorderClasses) -> Any:
    if not classes.inner:
        return position
    index = tirx.min(position, classes.first) if classes.first else tirx.const(0, "int32")
    if classes.last:
        index = index + tirx.max(position - (classes.size - 1 - classes.last), 0)
    return index


def conv_form(
    isa: Isa,
    *,
    channels: int,
    outputs: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    pixels: int,
    masked: bool = False,
) -> Form:
    """Return how a convolution counts; ``channels`` are those of all groups."""
    taps = kernel[1] if dilation[1] == 1 else 1
    return form_of(
        isa, Shape(channels // groups, outputs, groups, pixels, taps, strides[1], masked)
    )


def bconv2d_te(
    a: Any,
    weights: Sequence[Any],
    base: Any,
    *,
    outputs: int,
    kernel: tuple[int, int],
    channels: int,
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
    pad_value: int,
    isa: Isa,
    masked: bool = False,
    computed: int = 0,
) -> Any:
    """Return the tensor expression; ``weights`` are made by `kernel_weights`.

    Maps whose width no good tile divides are computed wider: `computed` columns, or what
    `computed_columns` finds.
    """
    images, height, width, _ = (int(dim) for dim in a.shape)
    top, left, bottom, right = padding
    rows = border_classes(height, kernel[0], strides[0], top, bottom, dilation[0])
    columns = border_classes(width, kernel[1], strides[1], left, right, dilation[1])
    ones = minus_one_words(channels // groups)
    per_group = len(ones)

    def padding_word(c: Any) -> Any:
        if pad_value != -1:
            return tirx.const(0, "uint32")
        full, last = (tirx.const(word, "uint32") for word in (ones[0], ones[-1]))
        if ones[0] == ones[-1]:
            return full
        return tirx.Select(tirx.floormod(c, per_group) == per_group - 1, last, full)

    w, *_ = weights
    form = conv_form(
        isa,
        channels=channels,
        outputs=outputs,
        kernel=kernel,
        strides=strides,
        dilation=dilation,
        groups=groups,
        pixels=rows.size * columns.size,
        masked=masked,
    )
    total = channels // groups * kernel[0] * kernel[1]
    if form.name == "plain":
        problem = Problem(
            images,
            height,
            width,
            channels // groups,
            outputs,
            groups,
            kernel,
            strides,
            dilation,
            padding,
            pad_value,
            masked,
        )
        count = sum_te(a, w, problem, "bconv2d")
        return _accumulator(count, base, (rows, columns), outputs, total)
    padded, steps = int(w.shape[0]) * form.lanes, form.steps(channels // groups)
    run = steps * form.elements
    if computed:
        computed = max(computed, least_columns(columns.size, form.name))
    else:
        computed = computed_columns(rows.size, columns.size, padded, form.lanes, isa, form.name)
    needed = (computed - 1) * strides[1] + dilation[1] * (kernel[1] - form.taps)
    needed += -(-run // per_group) if form.elements > 1 else 1
    right = max(right, needed - left - width)
    image = pad_image(a, (top, left, bottom, right), padding_word)
    x = spread(image, channels // groups, groups, form)

    def step(index: Sequence[Any], at: Sequence[Any]) -> Any:
        n, y, i, o = index
        ky, kx, c = at
        row, column = y * strides[0] + ky * dilation[0], i * strides[1] + kx * dilation[1]
        first = group_of(o, outputs, groups, padded) * steps + c
        block, lane = lane_of(o, form.lanes)
        elements = [x[n, row, column, first]]
        if form.elements > 1:  # of one run of words, which goes on in the next pixels
            width = groups * per_group
            run = [first * form.elements + element for element in range(form.elements)]
            elements = [x[n, row, column + word // width, word % width] for word in run]
        return differing(weights, form, isa, elements, (block, ky, kx, c, lane))

    count = differing_bits(
        (images, rows.size, computed, padded),
        (kernel[0], kernel[1] // form.taps, steps),
        step,
        form,
        isa,
        "bconv2d",
    )
    return _accumulator(count, base, (rows, columns), outputs, total)


def _accumulator(
    count: Any, base: Any, border: tuple[BorderClasses, BorderClasses], outputs: int, total: int
) -> Any:
    """Return ``base − 2·count`` (N, OH, OW, O); the count may be of a larger map."""
    rows, columns = border
    corrected = tuple(int(dim) for dim in base.shape[:2]) != (1, 1)

    def accumulator(n: Any, y: Any, i: Any, o: Any) -> Any:
        row = _class_index(y, rows) if corrected else 0
        column = _class_index(i, columns) if corrected else 0
        return base[row, column, o] - twice(count, (n, y, i, o), total)

    shape = (int(count.shape[0]), rows.size, columns.size, outputs)
    return te.compute(shape, accumulator, name="acc", attrs={"xnortvm.op": "accumulator"})


def legalize(bb: Any, call: Any, isa: Isa) -> Any:
    """Lower a call of `bconv2d` to TIR, with the weights blocked for the vector length."""
    packed = constant_value(call.args[1])
    if packed is None:
        raise ValueError("the weights of bconv2d must be a constant")
    isa, width = decided(call.attrs, isa)
    groups, channels = int(call.attrs["groups"]), int(call.attrs["channels"])
    masked = is_masked(packed.shape[3], channels // groups)

    def integers(name: str) -> tuple[int, ...]:
        return tuple(int(value) for value in call.attrs[name])

    geometry: dict[str, Any] = {
        "outputs": packed.shape[0],
        "kernel": (packed.shape[1], packed.shape[2]),
        "channels": channels,
        "strides": integers("strides"),
        "dilation": integers("dilation"),
        "groups": groups,
        "masked": masked,
    }
    form = conv_form(isa, pixels=prod(_sizes(call)), **geometry)

    def compute(a: Any, base: Any, *weights: Any) -> Any:
        return bconv2d_te(
            a,
            weights,
            base,
            padding=integers("padding"),  # type: ignore[arg-type]
            pad_value=int(call.attrs["pad_value"]),
            isa=isa,
            computed=width,
            **geometry,
        )

    weights = map(relax.const, kernel_weights(packed, channels // groups, form))
    return bb.call_te(
        compute, call.args[0], call.args[2], *weights, primfunc_name_hint="xnortvm_bconv2d"
    )

# SPDX-License-Identifier: Apache-2.0
"""Binary layers → packed operators; every other layer keeps its float operator and a reason.

    sign(x) ⊛ ±s weights   →   float(bconv2d(bitpack(x), packed weights)) · s

With activations a·v + b, v = ±1, the accumulator of v is multiplied by a·s; b adds the sum of the
weights inside the map, which is added to the accumulator itself when b/a is an integer (the
{0, 1} activations behind a ReLU: a = b = ½) and is a float constant otherwise.

Weights may hold zeros: they are masked. Weights of two values s·sign + t add t times the sum of the
activations under the window, `xnortvm.ops.bsum2d`: a matrix of rank one.

torch.sign(0) = 0 makes v ternary. Where that happens on purpose the layer is computed twice, with
zeros as +1 and as -1, and the accumulators are added: v = (v₊ + v₋) / 2, exact.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from xnortvm import ops
from xnortvm._tvm import IRModule, ir, relax
from xnortvm.frontend.names import span
from xnortvm.graph.dataflow import (
    Builder,
    const,
    layer_name,
    op_name,
    rebuild,
    shape_of,
)
from xnortvm.patterns import (
    PATTERNS,
    BinaryActivations,
    BinaryConv2d,
    BinaryDense,
    Reject,
    ZeroPolicy,
)
from xnortvm.report import LayerRow, Report
from xnortvm.transform.groups import join_groups
from xnortvm.transform.packed_signs import PackedSigns

Array = np.ndarray[Any, Any]

_STATIC = "make the weights a parameter, and export with a fixed input size"

#: Layers that never become binary, with what a reader of the report should know.
_ALWAYS_FLOAT = {
    "relax.nn.conv1d": ("its shape or weights are not static", _STATIC),
    "relax.nn.conv2d_transpose": (
        "its shape or weights are not static, or it reads only padding",
        _STATIC,
    ),
    "relax.nn.conv1d_transpose": (
        "its shape or weights are not static, or it reads only padding",
        _STATIC,
    ),
    "relax.nn.conv3d": (
        "3-D convolutions have no packed kernel",
        "add up a 2-D convolution for each slice of the kernel",
    ),
}

#: Operators that are layers: each gets a row in the report.
LAYER_OPERATORS = frozenset({*PATTERNS, *_ALWAYS_FLOAT})


class LowerBinary:
    """The pass: lowers what `PATTERNS` match and writes every decision into a report.

    Parameters
    ----------
    report : Report
        Gets one row per convolution and dense layer.
    policy : ZeroPolicy
        What to do with torch.sign of values that are 0 on purpose.
    """

    def __init__(self, report: Report, policy: ZeroPolicy) -> None:
        self.report = report
        self.policy = policy
        self.names: dict[str, int] = {}

    def __call__(self, mod: IRModule) -> IRModule:
        """Return the module with its binary layers lowered."""
        self.bits = PackedSigns()
        return rebuild(mod, self._visit)

    def _visit(self, builder: Builder, var: Any, call: Any) -> Any:
        name = op_name(call)
        if name in _ALWAYS_FLOAT:
            self._add_row(builder, var, call, Reject(*_ALWAYS_FLOAT[name]))
            return None
        check = PATTERNS.get(name)
        if check is None:
            return None
        match = check(builder, call, self.policy)
        if isinstance(match, Reject):
            row = self._add_row(builder, var, call, match)
            return ir.Call(call.op, call.args, call.attrs, call.ty_args, span(row.name))
        row = self._add_row(builder, var, call, match)
        ternary = bool(match.activations.zeros) and not self.policy.accept
        zeros = ("+1", "-1") if ternary else ("0",)
        factor = 1 / len(zeros)

        def added(layer: Layer) -> Any:
            halves = [builder.emit(layer(zero), "acc", call.span) for zero in zeros]
            return builder.emit(relax.op.add(*halves), "acc") if ternary else halves[0]

        acc = added(_LOWER[type(match)](self, builder, call, match, row.name))
        value = _scaled(builder, var, call, acc, match, factor)
        if not match.weights.offset.any():
            return value
        value = builder.emit(value, str(var.name), call.span)
        sums = added(_SUMS[type(match)](self, builder, call, match))
        shift = match.weights.offset * np.float32(match.activations.scale * factor)
        rank_one = builder.emit(relax.op.multiply(sums, const(shift)))
        return relax.op.add(value, rank_one)

    def _add_row(self, builder: Builder, var: Any, call: Any, match: Any) -> LayerRow:
        name = layer_name(call, str(var.name))
        self.names[name] = self.names.get(name, 0) + 1
        if self.names[name] > 1:
            name = f"{name}#{self.names[name]}"
        row = describe(name, var, call)
        if isinstance(match, Reject):
            row.reason, row.hint = match.reason, match.hint
        else:
            row.binary, row.bits_in, row.note = True, "1", match.weights.note
            if match.activations.zeros:
                self._add_zeros(row, match.activations.zeros)
        self.report.layers.append(row)
        return row

    def _add_zeros(self, row: LayerRow, zeros: str) -> None:
        if self.policy.accept:
            row.note += "; " if row.note else ""
            row.note += f'torch.sign(0) counts as +1 by sign_zero="+1": {zeros}'
            return
        row.bits_in = "2"
        row.note += "; " if row.note else ""
        row.note += (
            f"torch.sign makes its input ternary, because sign(0) = 0 and {zeros}; computed twice, "
            'which is exact; a sign that gives +1 at 0, or sign_zero="+1", halves its time'
        )


def describe(name: str, var: Any, call: Any) -> LayerRow:
    """Return the row of a layer before anything is known but its shape."""
    op = op_name(call).removeprefix("relax.").removeprefix("nn.")
    weight, out = shape_of(call.args[1]), shape_of(var)
    row = LayerRow(name, "dense" if op == "matmul" else op, binary=False)
    if weight is None or out is None:
        return row
    row.bytes_before = row.bytes_after = 4 * prod(weight)
    if op == "matmul":
        row.macs = prod(out) * weight[-2 if len(weight) > 1 else 0]
        row.shape = f"{weight[-2]}→{weight[-1]}" if len(weight) > 1 else str(weight[0])
    elif len(weight) == len(out) == 4:
        transposed = op.endswith("transpose")
        groups = int(call.attrs.groups)
        kernel = dict(zip(str(call.attrs.kernel_layout), weight, strict=True))
        image = dict(zip(str(call.attrs.data_layout), out, strict=True))
        read = kernel["I"] * (1 if transposed else groups)
        made = kernel["O"] * (groups if transposed else 1)
        strides = "×".join(str(int(s)) for s in dict.fromkeys(call.attrs.strides))
        # Every weight is used once for each position of the smaller of input and output.
        around = shape_of(call.args[0]) if transposed else out
        row.macs = prod(weight) * (prod(around or ()) // (read if transposed else made))
        row.shape = f"{kernel['H']}×{kernel['W']} {read}→{made} /{strides} on "
        row.shape += f"{image['H']}×{image['W']}" + (f" groups {groups}" if groups > 1 else "")
    return row


#: What a lowering returns: from what zeros count as to the call of the packed operator.
Layer = Callable[[str], Any]


def _conv2d(
    state: LowerBinary, builder: Builder, call: Any, match: BinaryConv2d, layer: str
) -> Layer:
    x_shape = shape_of(match.activations.var)
    assert x_shape is not None
    geometry = _geometry(call, match)
    pad_value = int(match.pad_value)
    base = ops.border_base(match.weights.signs, x_shape[1:3], pad_value=pad_value, **geometry)  # type: ignore[arg-type]
    ratio = _integer_offset(match.activations)
    base = (base + ratio * _inside(match.weights.signs, base)).astype(np.int32)
    signs, groups = join_groups(match.weights.signs, int(call.attrs.groups))
    weights, table = const(ops.pack_weights(signs)), const(base)
    return lambda zero: ops.bconv2d(
        state.bits.pack(builder, match.activations.var, _packing(x_shape[3], groups), zero),
        weights,
        table,
        channels=x_shape[3],
        groups=groups,
        pad_value=pad_value,
        offset=ratio,
        layer=layer,
        **geometry,
    )


def _conv2d_sums(state: LowerBinary, builder: Builder, call: Any, match: BinaryConv2d) -> Layer:
    """The sum of the activations under each window."""
    x_shape = shape_of(match.activations.var)
    assert x_shape is not None
    groups = int(call.attrs.groups)
    outputs, *kernel, _ = match.weights.signs.shape
    return lambda zero: ops.bsum2d(
        state.bits.pack(builder, match.activations.var, _packing(x_shape[3], groups), zero),
        channels=x_shape[3],
        outputs=outputs,
        kernel=kernel,
        groups=groups,
        pad_value=int(match.pad_value),
        offset=_integer_offset(match.activations),
        **_geometry(call, match),
    )


def _packing(channels: int, groups: int) -> int:
    """Groups to pack for: groups of whole words lie as if there were one."""
    return groups if channels // groups % ops.WORD else 1


def _dense(
    state: LowerBinary, builder: Builder, call: Any, match: BinaryDense, layer: str
) -> Layer:
    signs = match.weights.signs
    weights = const(ops.pack_weights(signs))
    lead = (shape_of(match.activations.var) or ())[:-1]
    ratio = _integer_offset(match.activations)
    share = const((ratio * signs.sum(axis=1)).astype(np.int32))

    def lower(zero: str) -> Any:
        rows = state.bits.pack(builder, match.activations.var, 1, zero)
        if len(lead) != 1:
            rows = builder.emit(relax.op.reshape(rows, (prod(lead), ops.words(signs.shape[1]))))
        acc = ops.bdense(rows, weights, channels=signs.shape[1], layer=layer)
        if ratio:
            acc = relax.op.add(builder.emit(acc, "acc", call.span), share)
        if len(lead) != 1:
            acc = relax.op.reshape(builder.emit(acc, "acc", call.span), (*lead, signs.shape[0]))
        return acc

    return lower


def _dense_sums(state: LowerBinary, builder: Builder, _: Any, match: BinaryDense) -> Layer:
    """The sum of each row of activations: a window of one pixel."""
    outputs, inputs = match.weights.signs.shape
    lead = (shape_of(match.activations.var) or ())[:-1]

    def lower(zero: str) -> Any:
        rows = state.bits.pack(builder, match.activations.var, 1, zero)
        pixels = builder.emit(relax.op.reshape(rows, (prod(lead), 1, 1, ops.words(inputs))))
        sums = ops.bsum2d(
            pixels,
            channels=inputs,
            outputs=outputs,
            kernel=(1, 1),
            offset=_integer_offset(match.activations),
        )
        return relax.op.reshape(builder.emit(sums), (*lead, 1))

    return lower


_LOWER: dict[type, Callable[..., Any]] = {BinaryConv2d: _conv2d, BinaryDense: _dense}
_SUMS: dict[type, Callable[..., Any]] = {BinaryConv2d: _conv2d_sums, BinaryDense: _dense_sums}


def _inside(signs: Array, base: Array) -> Array:
    """Sum of the weights that lie inside the map, for each class of rows and columns."""
    total = np.count_nonzero(signs, axis=(1, 2, 3))
    inside: Array = signs.astype(np.int64).sum(axis=(1, 2, 3)) - total + base
    return inside


def _integer_offset(activations: BinaryActivations) -> int:
    """b / a where it is an integer, which is added to the accumulator; else 0."""
    ratio = activations.offset / activations.scale
    return int(ratio) if ratio == int(ratio) else 0


def _scaled(
    builder: Builder,
    var: Any,
    call: Any,
    acc: Any,
    match: BinaryConv2d | BinaryDense,
    factor: float,
) -> Any:
    """float(acc)·factor·a·s, plus the offset's share where the table could not take it."""
    activations, weights = match.activations, match.weights
    value = builder.emit(relax.op.astype(acc, "float32"), str(var.name), call.span)
    scale = (weights.scale * np.float32(activations.scale * factor)).astype(np.float32)
    if not (scale == 1).all():
        value = builder.emit(relax.op.multiply(value, const(scale)), str(var.name), call.span)
    if activations.offset == 0 or _integer_offset(activations):
        return value
    return relax.op.add(value, const(_offset_share(call, match)))


def _offset_share(call: Any, match: BinaryConv2d | BinaryDense) -> Array:
    """b · (sum of the weights that lie inside the map), per output channel and position."""
    weights, offset = match.weights, np.float32(match.activations.offset)
    parts = [(weights.signs, weights.scale)]
    if weights.offset.any():
        parts.append((np.ones_like(weights.signs), weights.offset))
    if isinstance(match, BinaryDense):
        sums = [scale * signs.sum(axis=1) for signs, scale in parts]
    else:
        sums = [scale * _inside_by_position(call, match, signs) for signs, scale in parts]
    return (offset * sum(sums)).astype(np.float32)


def _inside_by_position(call: Any, match: BinaryConv2d, signs: Array) -> Array:
    """Sum of weights that lie inside the map, (1, OH, OW, O), or (1, 1, 1, O) where all do."""
    shape = shape_of(match.activations.var)
    assert shape is not None
    geometry = _geometry(call, match)
    pad_value = int(match.pad_value)
    base = ops.border_base(signs, shape[1:3], pad_value=pad_value, **geometry)  # type: ignore[arg-type]
    inside = _inside(signs, base)
    if base.shape[:2] != (1, 1):
        axes = [
            ops.border_classes(
                shape[1 + i],
                signs.shape[1 + i],
                geometry["strides"][i],
                match.padding[i],
                match.padding[2 + i],
                geometry["dilation"][i],
            )
            for i in (0, 1)
        ]
        rows, columns = ([c.of(p) for p in range(c.size)] for c in axes)
        inside = inside[np.ix_(rows, columns)]
    return inside[None]


def _geometry(call: Any, match: BinaryConv2d) -> dict[str, Any]:
    return {
        "strides": tuple(int(s) for s in call.attrs.strides),
        "padding": match.padding,
        "dilation": tuple(int(d) for d in call.attrs.dilation),
    }

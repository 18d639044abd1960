# SPDX-License-Identifier: Apache-2.0
"""Binary layers → packed operators; every other layer keeps its float operator and a reason.

    sign(x) ⊛ ±s weights   →   float(bconv2d(bitpack(x), packed weights)) · s

With activations a·v + b, v = ±1, the accumulator of v is multiplied by a·s; b adds the sum of the
weights inside the map, which goes into the accumulator's own table when b/a is an integer (the
{0, 1} activations behind a ReLU: a = b = ½) and is a float constant otherwise.
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

#: Layers that never become binary, with what a reader of the report should know.
_ALWAYS_FLOAT = {
    "relax.nn.conv1d": "its shape or weights are not static",
    "relax.nn.conv2d_transpose": "transposed convolutions have no packed kernel",
    "relax.nn.conv1d_transpose": "transposed convolutions have no packed kernel",
    "relax.nn.conv3d": "3-D convolutions have no packed kernel",
}


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
        self.packed: dict[tuple[Any, int], Any] = {}
        return rebuild(mod, self._visit)

    def _visit(self, builder: Builder, var: Any, call: Any) -> Any:
        name = op_name(call)
        if name in _ALWAYS_FLOAT:
            self._add_row(builder, var, call, Reject(_ALWAYS_FLOAT[name]))
            return None
        check = PATTERNS.get(name)
        if check is None:
            return None
        match = check(builder, call, self.policy)
        if isinstance(match, Reject):
            row = self._add_row(builder, var, call, match)
            return ir.Call(call.op, call.args, call.attrs, call.ty_args, span(row.name))
        row = self._add_row(builder, var, call, match)
        acc = _LOWER[type(match)](self, builder, call, match, row)
        row.bytes_after += 4 * match.weights.scale.size
        return _scaled(builder, var, call, acc, match)

    def pack(self, builder: Builder, var: Any, groups: int) -> Any:
        """Emit the packed bits of two-valued activations, once for all their users."""
        key = (var, groups)
        if key not in self.packed:
            self.packed[key] = _pack(self, builder, var, groups)
        return self.packed[key]

    def _add_row(self, builder: Builder, var: Any, call: Any, match: Any) -> LayerRow:
        name = layer_name(call, str(var.name))
        self.names[name] = self.names.get(name, 0) + 1
        if self.names[name] > 1:
            name = f"{name}#{self.names[name]}"
        row = describe(name, var, call)
        if isinstance(match, Reject):
            row.reason, row.hint = match.reason, match.hint
        else:
            row.binary, row.bits_in = True, "1"
            row.note = _note(match.activations)
        self.report.layers.append(row)
        return row


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
    elif len(weight) == 4 and len(out) == 4:
        o, kh, kw, i = weight
        n, h, w, _ = out
        groups = int(call.attrs.groups)
        strides = "×".join(str(int(s)) for s in dict.fromkeys(call.attrs.strides))
        row.macs = n * h * w * o * kh * kw * i
        row.shape = f"{kh}×{kw} {i * groups}→{o} /{strides} on {h}×{w}"
        row.shape += f" groups {groups}" if groups > 1 else ""
    return row


def _note(activations: BinaryActivations) -> str:
    if activations.zeros:
        return f'zeros count as +1 by sign_zero="+1": {activations.zeros}'
    return ""


def _pack(state: LowerBinary, builder: Builder, var: Any, groups: int) -> Any:
    """Packed bits of a ±1 value, computed on bits as far up as possible."""
    call = builder.producer(var)
    name = op_name(call)
    if name == "relax.xnortvm.sign":
        bits = ops.bitpack(call.args[0], groups=groups, zero=str(call.attrs["zero"]))
        return builder.emit(bits, f"{var.name}_bits")
    if name == "relax.nn.max_pool2d" and str(call.attrs.layout) == "NHWC":
        pooled = ops.bmaxpool2d(
            state.pack(builder, call.args[0], groups),
            pool_size=[int(p) for p in call.attrs.pool_size],
            strides=[int(s) for s in call.attrs.strides],
            padding=[int(p) for p in call.attrs.padding],
            dilation=[int(d) for d in call.attrs.dilation],
            ceil_mode=bool(call.attrs.ceil_mode),
        )
        return builder.emit(pooled, f"{var.name}_bits")
    if name == "relax.reshape":
        before, after = shape_of(call.args[0]), shape_of(var)
        if before and after and _keeps_words(before, after, groups):
            bits = state.pack(builder, call.args[0], groups)
            words = prod(shape_of(bits) or ()) // prod(after[:-1])
            return builder.emit(relax.op.reshape(bits, (*after[:-1], words)), f"{var.name}_bits")
    return builder.emit(ops.bitpack(var, groups=groups, zero="+1"), f"{var.name}_bits")


def _keeps_words(before: tuple[int, ...], after: tuple[int, ...], groups: int) -> bool:
    """Whether a reshape moves whole words: the channels stay, or fill their words."""
    whole = before[-1] % ops.WORD == 0 and after[-1] % ops.WORD == 0 and groups == 1
    return whole or before[-1] == after[-1]


def _conv2d(
    state: LowerBinary, builder: Builder, call: Any, match: BinaryConv2d, row: LayerRow
) -> Any:
    signs, attrs = match.weights.signs, call.attrs
    groups = int(attrs.groups)
    x_shape = shape_of(match.activations.var)
    assert x_shape is not None
    strides, dilation = _pair(attrs.strides), _pair(attrs.dilation)
    pad_value = int(match.pad_value)
    base = ops.border_base(
        signs,
        (x_shape[1], x_shape[2]),
        strides=strides,
        padding=match.padding,
        dilation=dilation,
        pad_value=pad_value,
    )
    ratio = _integer_offset(match.activations)
    if ratio:
        inside = signs.astype(np.int64).sum(axis=(1, 2, 3)) - prod(signs.shape[1:]) + base
        base = (base + ratio * inside).astype(np.int32)
    weights = ops.pack(signs < 0)
    row.bytes_after = weights.nbytes + base.nbytes
    return builder.emit(
        ops.bconv2d(
            state.pack(builder, match.activations.var, groups),
            const(weights),
            const(base),
            channels=x_shape[3],
            strides=strides,
            padding=match.padding,
            dilation=dilation,
            groups=groups,
            pad_value=pad_value,
            offset=ratio,
            layer=row.name,
        ),
        "acc",
        call.span,
    )


def _dense(
    state: LowerBinary, builder: Builder, call: Any, match: BinaryDense, row: LayerRow
) -> Any:
    signs = match.weights.signs
    weights = ops.pack(signs < 0)
    row.bytes_after = weights.nbytes
    bits = state.pack(builder, match.activations.var, 1)
    lead = (shape_of(match.activations.var) or ())[:-1]
    rows = builder.emit(relax.op.reshape(bits, (prod(lead), weights.shape[1])))
    if len(lead) == 1:
        rows = bits
    dense = ops.bdense(rows, const(weights), channels=signs.shape[1], layer=row.name)
    acc = builder.emit(dense, "acc", call.span)
    return acc if len(lead) == 1 else builder.emit(relax.op.reshape(acc, (*lead, signs.shape[0])))


_LOWER: dict[type, Callable[..., Any]] = {BinaryConv2d: _conv2d, BinaryDense: _dense}


def _integer_offset(activations: BinaryActivations) -> int:
    """b / a where it is an integer that the accumulator's table can take, else 0."""
    ratio = activations.offset / activations.scale
    return int(ratio) if ratio == int(ratio) else 0


def _scaled(
    builder: Builder, var: Any, call: Any, acc: Any, match: BinaryConv2d | BinaryDense
) -> Any:
    """float(acc)·a·s, plus the offset's share where the table could not take it."""
    activations, weights = match.activations, match.weights
    value = builder.emit(relax.op.astype(acc, "float32"), str(var.name), call.span)
    scale = (weights.scale * np.float32(activations.scale)).astype(np.float32)
    if not (scale == 1).all():
        value = builder.emit(relax.op.multiply(value, const(scale)), str(var.name), call.span)
    in_table = isinstance(match, BinaryConv2d) and _integer_offset(activations)
    if activations.offset == 0 or in_table:
        return value
    return relax.op.add(value, const(_offset_share(call, match)))


def _offset_share(call: Any, match: BinaryConv2d | BinaryDense) -> np.ndarray[Any, Any]:
    """b · s · (sum of the weights that lie inside the map), per output channel and position."""
    weights, offset = match.weights, np.float32(match.activations.offset)
    if isinstance(match, BinaryDense):
        return (offset * weights.scale * weights.signs.sum(axis=1)).astype(np.float32)
    signs = weights.signs
    shape = shape_of(match.activations.var)
    assert shape is not None
    geometry = dict(
        strides=_pair(call.attrs.strides), padding=match.padding, dilation=_pair(call.attrs.dilation)
    )
    base = ops.border_base(
        signs,
        shape[1:3],  # type: ignore[arg-type]
        pad_value=int(match.pad_value),
        **geometry,  # type: ignore[arg-type]
    )
    inside = signs.astype(np.int64).sum(axis=(1, 2, 3)) - prod(signs.shape[1:]) + base
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
    share: np.ndarray[Any, Any] = (offset * weights.scale * inside).astype(np.float32)
    return share[None]


def _pair(values: Any) -> tuple[int, int]:
    first, second = (int(v) for v in values)
    return first, second



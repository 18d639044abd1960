# SPDX-License-Identifier: Apache-2.0
"""A transposed convolution of stride s → s·s ordinary ones, whose outputs are interleaved.

Output row y reads input row i through tap k where y = i·s − p + k·d. Rows with the same remainder
y mod s read the same taps: those with k·d ≡ y + p (mod s), in steps of d / gcd(s, d) rows. So each
remainder (*phase*) is an ordinary convolution of stride 1 by some of the taps, flipped; binary when
the transposed one is, and its zero padding is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np

from xnortvm._tvm import relax
from xnortvm.frontend.names import span
from xnortvm.graph.dataflow import Builder, const, layer_name, shape_of, value_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Phase:
    """The ordinary convolution along one axis for the outputs y ≡ remainder (mod stride).

    Attributes
    ----------
    taps : tuple of int
        Taps of the transposed kernel in the order of the ordinary one; none where the outputs
        read nothing and are 0.
    dilation : int
    before, after : int
        Padding of the input; rows are cut off where it is negative.
    """

    taps: tuple[int, ...]
    dilation: int
    before: int
    after: int


def phase_of(
    remainder: int, count: int, *, size: int, kernel: int, stride: int, padding: int, dilation: int
) -> Phase:
    """Return the convolution that gives the outputs ``remainder + stride · (0 ... count − 1)``.

    Parameters
    ----------
    size : int
        Rows of the input.
    padding : int
        What the transposed convolution cuts off before its first output.

    Examples
    --------
    >>> phase_of(0, 4, size=4, kernel=3, stride=2, padding=1, dilation=1)
    Phase(taps=(1,), dilation=1, before=0, after=0)
    >>> phase_of(1, 4, size=4, kernel=3, stride=2, padding=1, dilation=1)
    Phase(taps=(2, 0), dilation=1, before=0, after=1)
    """
    start, rest = divmod(remainder + padding, stride)
    taps = [k for k in range(kernel) if k * dilation % stride == rest]
    if not taps:
        return Phase((), 1, 0, 0)
    # Tap k reads input row start + m − offset(k) for the output remainder + m·stride.
    offsets = [(k * dilation - rest) // stride for k in taps]
    before = offsets[-1] - start
    after = start + count - 1 - offsets[0] - (size - 1)
    return Phase(tuple(taps[::-1]), dilation // gcd(stride, dilation), before, after)


def is_expandable(var: Any, call: Any) -> bool:
    """Whether a transposed convolution has constant weights, static shapes and the usual order."""
    layouts = str(call.attrs.data_layout), str(call.attrs.kernel_layout)
    known = layouts in (("NCW", "IOW"), ("NCHW", "IOHW")) and value_of(call.args[1]) is not None
    return known and None not in (shape_of(var), shape_of(call.args[0]))


def expand(builder: Builder, var: Any, call: Any, x: Any) -> Any:
    """Emit a transposed convolution as ordinary ones; a 1-D one is a row of height 1.

    Parameters
    ----------
    builder : Builder
    var, call : Var, Call
        The transposed convolution in the user's order, `is_expandable`; `var` gives its size.
    x : Var
        Its input, channels last.

    Returns
    -------
    Expr
        The output, channels last; None where a phase would read nothing but padding. A phase is
        a layer with its remainders behind the name, ``up[0,1]``.
    """
    attrs, weight, size, shape = call.attrs, value_of(call.args[1]), shape_of(var), shape_of(x)
    assert weight is not None and size is not None and shape is not None
    flat = len(shape) == 3
    weight = weight[:, :, None] if flat else weight

    def two(values: Any, missing: int) -> list[int]:
        given = [int(value) for value in values]
        return [missing, given[0]] if flat else given[:2]

    image = (shape[0], 1, *shape[1:]) if flat else shape
    out, strides = two(size[2:], 1), two(attrs.strides, 1)
    counts = [-(-extent // stride) for extent, stride in zip(out, strides, strict=True)]
    numbers = zip(
        counts,
        image[1:3],
        weight.shape[2:],
        strides,
        two(attrs.padding, 0),
        two(attrs.dilation, 1),
        strict=True,
    )
    phases = [
        [phase_of(r, n, size=rows, kernel=k, stride=s, padding=p, dilation=d) for r in range(s)]
        for n, rows, k, s, p, d in numbers
    ]
    if any(
        phase.before + phase.after + rows < 1
        for rows, axis in zip(image[1:3], phases, strict=True)
        for phase in axis
    ):
        return None
    groups = int(attrs.groups)
    ordinary = _ordinary(weight, groups)
    x = builder.emit(relax.op.reshape(x, image)) if flat else x
    name = layer_name(call, str(var.name))
    parts = [
        [
            _convolution(builder, x, ordinary, counts, (down, across), groups, f"{name}[{y},{i}]")
            for i, across in enumerate(phases[1])
        ]
        for y, down in enumerate(phases[0])
    ]
    result = _interleaved(builder, parts, (out[0], out[1]))
    return relax.op.reshape(result, (size[0], *size[2:], size[1]))


def _ordinary(weight: Array, groups: int) -> Array:
    """(I, O / G, KH, KW) → (O, KH, KW, I / G)."""
    inputs, outputs, *kernel = weight.shape
    grouped = weight.reshape(groups, inputs // groups, outputs, *kernel)
    return grouped.transpose(0, 2, 3, 4, 1).reshape(groups * outputs, *kernel, inputs // groups)


def _convolution(
    builder: Builder,
    x: Any,
    weight: Array,
    counts: list[int],
    phases: tuple[Phase, Phase],
    groups: int,
    layer: str,
) -> Any:
    down, across = phases
    n, height, width, _ = shape_of(x)  # type: ignore[misc]
    if not down.taps or not across.taps:
        return const(np.zeros((n, *counts, len(weight)), np.float32))
    begin = [max(-phase.before, 0) for phase in phases]
    end = [
        extent - max(-phase.after, 0) for extent, phase in zip((height, width), phases, strict=True)
    ]
    if begin != [0, 0] or end != [height, width]:
        x = builder.emit(relax.op.strided_slice(x, [1, 2], begin, end))
    conv = relax.op.nn.conv2d(
        x,
        const(weight[:, list(down.taps)][:, :, list(across.taps)]),
        padding=[max(p, 0) for p in (down.before, across.before, down.after, across.after)],
        dilation=[down.dilation, across.dilation],
        groups=groups,
        data_layout="NHWC",
        kernel_layout="OHWI",
        out_layout="NHWC",
    )
    return builder.emit(conv, layer, span(layer))


def _interleaved(builder: Builder, parts: list[list[Any]], size: tuple[int, int]) -> Any:
    """Put the pixels of all phases in their places: parts[y][x] has those of remainders y, x."""
    n, height, width, channels = shape_of(parts[0][0])  # type: ignore[misc]
    rows = []
    for row in parts:
        if len(row) > 1:
            wide = [builder.emit(relax.op.reshape(p, (n, height, width, 1, channels))) for p in row]
            joined = builder.emit(relax.op.concat(wide, 3))
            rows.append(joined)
        else:
            rows.append(row[0])
    across = width * len(parts[0])
    if len(parts) > 1:
        shape = (n, height, 1, across, channels)
        tall = [builder.emit(relax.op.reshape(row, shape)) for row in rows]
        rows = [builder.emit(relax.op.concat(tall, 2))]
    down = height * len(parts)
    result = builder.emit(relax.op.reshape(rows[0], (n, down, across, channels)))
    if size == (down, across):
        return result
    return builder.emit(relax.op.strided_slice(result, [1, 2], [0, 0], list(size)))

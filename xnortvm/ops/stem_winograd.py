# SPDX-License-Identifier: Apache-2.0
"""A float convolution with any stride by Winograd's method, as tensor expressions.

An output tile of my × mx pixels needs ny × nx transformed points, n = m + r - 1, where r is the
number of taps of the longest phase (see `xnortvm.ops.winograd`). In seven steps::

    pad      the image with zeros around it
    image    its columns sorted by their place in a tile: (row, place, tile)
    rows     Bᵀ down the columns of a tile                           vectors along the image
    points   Bᵀ along the rows                                       vectors of tiles
    product  for each point: phases · channels → output channels     vectors of output channels
    across   Aᵀ along the rows
    conv2d   Aᵀ down the columns: the output

At an infinite point only the phases with the most taps count, so the products there are shorter:
the points are cut into finite and infinite rows and columns.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnortvm._tvm import te, tirx
from xnortvm.ops.channels import blocked_weight, lane_of
from xnortvm.ops.padding import pad_image
from xnortvm.ops.winograd import as_array
from xnortvm.ops.winograd_tile import Axis, Piece

#: Attribute "xnortvm.op" of the output; that of a step before it is ``winograd.<step>``.
ROLE = "winograd"


def transformed_weight(weight: NDArray[Any], y: Axis, x: Axis) -> NDArray[np.float32]:
    """Return G g Gᵀ of the weights (O, KH, KW, C), rounded once.

    Returns
    -------
    (O, ny, nx, sy · sx · C) float32
        Terms in the order phase of the row, phase of the column, channel.
    """
    outputs, kernel_h, kernel_w, channels = weight.shape
    missing = [(0, 0), (0, y.taps * y.stride - kernel_h), (0, x.taps * x.stride - kernel_w), (0, 0)]
    phases = np.pad(weight.astype(np.float64), missing).reshape(
        outputs, y.taps, y.stride, x.taps, x.stride, channels
    )
    vertical, horizontal = (as_array(axis.matrices.weight) for axis in (y, x))
    points = np.einsum("ia,oapbqc,jb->oijpqc", vertical, phases, horizontal, optimize=True)
    return points.reshape(outputs, y.points, x.points, -1).astype(np.float32)


def winograd_te(
    image: Any,
    weight: Any,
    *,
    outputs: int,
    padding: tuple[int, int],
    channels_last: bool,
    axes: tuple[Axis, Axis],
    group: int,
    lanes: int,
) -> Any:
    """Return the tensor expression (N, rows, columns, O).

    Parameters
    ----------
    image : te.Tensor
        (N, C, H, W) float32, or (N, H, W, C) with `channels_last`.
    weight : te.Tensor
        (O / lanes, ny, nx, sy · sx · C, lanes): `transformed_weight`, blocked.
    padding : (top, left)
        Zeros in front; behind as many as the tiles need.
    axes : (Axis, Axis)
        Rows and columns.
    group : int
        Tiles of a row are computed in multiples of so many.
    """
    y, x = axes
    size = [int(dim) for dim in image.shape]
    images, channels = size[0], size[3 if channels_last else 1]
    height, width = size[1:3] if channels_last else size[2:]
    tiles = -(-x.tiles // group) * group
    padded_outputs = int(weight.shape[0]) * lanes
    vectors = -(-tiles // lanes)
    beyond = (x.stride * x.points - 1) // x.step
    # Tiles that the image holds for each place: whole vectors for all places together.
    held = vectors * lanes + beyond
    while held * x.step % lanes:
        held += 1
    needed_rows = (y.tiles - 1) * y.step + y.stride * y.points
    top, left = padding
    below, right = needed_rows - height - top, held * x.step - width - left
    padded = pad_image(
        image,
        (top, left, max(below, 0), max(right, 0)),
        lambda _: _float(0),
        channels_last=channels_last,
    )

    def sort(n: Any, c: Any, row: Any, q: Any, lane: Any) -> Any:
        flat = q * lanes + lane
        at = (row, flat % held * x.step + flat // held)
        return padded[(n, *at, c)] if channels_last else padded[(n, c, *at)]

    sorted_image = te.compute(
        (images, channels, needed_rows, held * x.step // lanes, lanes), sort, **_named("image")
    )

    def down(n: Any, t: Any, c: Any, phase: Any, i: Any, q: Any, lane: Any) -> Any:
        values = [
            sorted_image[n, c, y.step * t + y.stride * k + phase, q, lane] for k in range(y.points)
        ]
        return _choose(i, _rows_times(y.matrices.input, values))

    rows = te.compute(
        (images, y.tiles, channels, y.stride, y.points, held * x.step // lanes, lanes),
        down,
        **_named("rows"),
    )

    def along(n: Any, t: Any, i: Any, j: Any, p: Any, q: Any, c: Any, v: Any, lane: Any) -> Any:
        def value(k: int, phase: int) -> Any:
            place = x.stride * k + phase
            flat = place % x.step * held + v * lanes + lane + place // x.step
            return rows[n, t, c, p, i, flat // lanes, flat % lanes]

        by_phase = [
            _rows_times(x.matrices.input, [value(k, phase) for k in range(x.points)])
            for phase in range(x.stride)
        ]
        return _choose(q, [_choose(j, points) for points in by_phase])

    points = te.compute(
        (images, y.tiles, y.points, x.points, y.stride, x.stride, channels, vectors, lanes),
        along,
        **_named("points"),
    )

    def sums(down: Piece, along: Piece) -> Any:
        """Sums over phases and channels."""
        p, q, c = (
            te.reduce_axis((0, extent), axis)
            for extent, axis in ((down.phases, "p"), (along.phases, "q"), (channels, "c"))
        )

        def element(n: Any, t: Any, u: Any, i: Any, j: Any, o: Any) -> Any:
            block, lane = lane_of(o, lanes)
            term = (p * x.stride + q) * channels + c
            at = (i + down.first, j + along.first)
            value = points[(n, t, *at, p, q, c, u // lanes, u % lanes)]
            return te.sum(value * weight[(block, *at, term, lane)], axis=[p, q, c])

        shape = (images, y.tiles, tiles, down.count, along.count, padded_outputs)
        return te.compute(shape, element, **_named("product", f"{down.first}_{along.first}"))

    def across(down: Piece) -> Any:
        products = [(sums(down, along), along) for along in x.pieces]

        def element(n: Any, t: Any, u: Any, i: Any, b: Any, o: Any) -> Any:
            values = [p[n, t, u, i, k, o] for p, along in products for k in range(along.count)]
            return _choose(b, _rows_times(x.matrices.output, values))

        shape = (images, y.tiles, tiles, down.count, x.tile, padded_outputs)
        return te.compute(shape, element, **_named("across", str(down.first)))

    parts = [(across(down), down) for down in y.pieces]

    def output(n: Any, row: Any, column: Any, o: Any) -> Any:
        t, u, b = row // y.tile, column // x.tile, column % x.tile
        values = [part[n, t, u, k, b, o] for part, down in parts for k in range(down.count)]
        return _choose(row % y.tile, _rows_times(y.matrices.output, values))

    shape = (images, y.tiles * y.tile, tiles * x.tile, padded_outputs)
    attrs = {
        "xnortvm.op": ROLE,
        "xnortvm.tile": [y.tile, x.tile, group],
        "xnortvm.places": x.step,
    }
    result = te.compute(shape, output, name="conv2d", attrs=attrs)
    real = (images, y.outputs, x.outputs, outputs)
    if shape == real:
        return result
    return te.compute(
        real,
        lambda *index: result(*index),
        name="real_part",
        attrs={"xnortvm.op": "accumulator"},
    )


def _named(step: str, name: str = "") -> dict[str, Any]:
    return {"name": f"{step}_{name}" if name else step, "attrs": {"xnortvm.op": f"{ROLE}.{step}"}}


def _float(value: Fraction | int) -> Any:
    return tirx.const(float(value), "float32")


def _choose(index: Any, values: list[Any]) -> Any:
    """``values[index]``; the index is known once its loop is unrolled."""
    result = values[-1]
    for i in reversed(range(len(values) - 1)):
        result = tirx.Select(index == i, values[i], result)
    return result


def _rows_times(rows: tuple[tuple[Fraction, ...], ...], values: list[Any]) -> list[Any]:
    """A constant matrix times a vector of expressions.

    Two columns that are equal up to alternating signs (points a and -a of an output matrix) are
    added and subtracted once; LLVM computes equal expressions once.
    """
    pairs = _pairs(rows)
    return [_sum(row, i, values, pairs) for i, row in enumerate(rows)]


def _pairs(rows: tuple[tuple[Fraction, ...], ...]) -> list[tuple[int, int]]:
    """Columns a and b that are equal in even rows and opposite in odd ones."""
    if len(rows) < 3:
        return []
    columns = list(zip(*rows, strict=True))
    mirrored = [tuple(-v if i % 2 else v for i, v in enumerate(column)) for column in columns]
    return [
        (a, b)
        for a, b in combinations(range(len(columns)), 2)
        if columns[a] == mirrored[b] and all(columns[a])
    ]


def _sum(
    row: tuple[Fraction, ...], index: int, values: list[Any], pairs: list[tuple[int, int]]
) -> Any:
    taken = {k for pair in pairs for k in pair}
    terms = [
        (row[a], values[a] - values[b] if index % 2 else values[a] + values[b]) for a, b in pairs
    ]
    terms += [(row[k], value) for k, value in enumerate(values) if k not in taken]
    total: Any = None
    for factor, value in terms:
        if factor == 0:
            continue
        if total is None:
            total = value if factor == 1 else _float(factor) * value
        elif abs(factor) == 1:
            total = total + value if factor == 1 else total - value
        else:
            total = total + _float(factor) * value
    return total


def blocked_winograd_weight(weight: NDArray[Any], y: Axis, x: Axis, lanes: int) -> NDArray[Any]:
    """Return the weights (O, KH, KW, C) as `winograd_te` reads them."""
    return blocked_weight(transformed_weight(weight, y, x), lanes)

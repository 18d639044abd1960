# SPDX-License-Identifier: Apache-2.0
"""Layout rules of operators that move values: reshapes, transposes, splits, repetitions.

A channel shuffle or a PixelShuffle is reshape → transpose → reshape. The first splits a dimension,
the second renames dimensions, and neither has to touch memory, whatever the order of the
dimensions there; the last joins dimensions, and one copy brings them side by side, straight into
the order that the next layer reads.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any

from xnortvm._tvm import relax
from xnortvm.graph.dataflow import Builder, shape_of, value_of
from xnortvm.transform.orders import (
    CHANNELS_LAST,
    Flat,
    Moved,
    axes_of,
    from_last,
    moved_axis,
    tag_of,
    to_last,
)

Shape = tuple[int, ...]


def reshape(state: Any, builder: Builder, var: Any, call: Any) -> Any:
    """Split and join dimensions where they lie; copy once where they lie apart."""
    x = call.args[0]
    tag, memory, target = state.tag(x), shape_of(x), shape_of(var)
    if not (tag == CHANNELS_LAST or isinstance(tag, Moved)) or memory is None or target is None:
        return None
    is_flat = tag == CHANNELS_LAST and target == (memory[0], prod(memory[1:]))
    if is_flat and prod(memory[1:-1]) > 1:
        flat = Flat(memory[-1], prod(memory[1:-1]))
        return state.emit(builder, relax.op.reshape(x, target), flat, var, call.span)
    axes = axes_of(tag, len(memory))
    source = tuple(memory[axes.index(axis)] for axis in range(len(memory)))
    found = common_parts(source, target)
    if found is None:
        return None
    sizes, before, after = found
    lying = [part for axis in axes for part in before[axis]]
    places = {part: place for place, part in enumerate(lying)}
    if all(_adjacent([places[part] for part in parts]) for parts in after):
        filled = [axis for axis, parts in enumerate(after) if parts]
        filled.sort(key=lambda axis: places[after[axis][0]])
        new_tag, order = tag_of(filled, target)
    else:
        wanted = var in state.wanted and len(target) >= 3
        new_tag, order = (CHANNELS_LAST if wanted else None), list(range(len(target)))
        order = to_last(len(target)) if wanted else order
        x = builder.emit(relax.op.reshape(x, [sizes[part] for part in lying]))
        turn = [places[part] for axis in order for part in after[axis]]
        x = builder.emit(relax.op.permute_dims(x, turn))
    result = relax.op.reshape(x, [target[axis] for axis in order])
    return state.emit(builder, result, new_tag, var, call.span)


def common_parts(
    source: Shape, target: Shape
) -> tuple[list[int], list[list[int]], list[list[int]]] | None:
    """Cut two shapes of the same elements into the same parts.

    Returns
    -------
    sizes : list of int
        Extent of each part, from the first dimension to the last.
    before, after : list of list of int
        The parts of each dimension of the two shapes; none for one of extent 1. None in place of
        everything where the dimensions do not divide each other.

    Examples
    --------
    >>> common_parts((2, 12, 5), (2, 3, 4, 5))
    ([2, 3, 4, 5], [[0], [1, 2], [3]], [[0], [1], [2], [3]])
    """
    sizes: list[int] = []
    before: list[list[int]] = [[] for _ in source]
    after: list[list[int]] = [[] for _ in target]
    i, j, left, right = -1, -1, 1, 1
    while True:
        while left == 1 and i + 1 < len(source):
            i, left = i + 1, source[i + 1]
        while right == 1 and j + 1 < len(target):
            j, right = j + 1, target[j + 1]
        if left == right == 1:
            return sizes, before, after
        part = min(left, right)
        if part <= 1 or left % part or right % part:
            return None
        before[i].append(len(sizes))
        after[j].append(len(sizes))
        sizes.append(part)
        left, right = left // part, right // part


def _adjacent(places: list[int]) -> bool:
    return all(b == a + 1 for a, b in pairwise(places))


def permute(state: Any, builder: Builder, var: Any, call: Any) -> Any:
    """Rename the dimensions; nothing moves."""
    x, ndim = call.args[0], var.ty.ndim
    given = call.attrs.axes
    turn = [int(axis) for axis in given] if given is not None else list(range(ndim))[::-1]
    tag, target = state.tag(x), shape_of(var)
    if not isinstance(x, relax.Var) or ndim < 3 or target is None or isinstance(tag, Flat):
        return None
    if tag is None and turn != from_last(ndim):
        return None
    axes = [turn.index(axis) for axis in axes_of(tag, ndim)]
    new_tag, order = tag_of(axes, target)
    same = relax.op.reshape(x, [target[axis] for axis in order])
    return state.emit(builder, same, new_tag, var, call.span)


def split(state: Any, builder: Builder, var: Any, call: Any) -> Any:
    """One slice for each part."""
    x = call.args[0]
    last = state.tag(x) == CHANNELS_LAST
    if not last and state.tag(x) is not None:
        return None
    types = [shape_of(relax.Var("part", ty)) for ty in var.ty.fields]
    if None in types or not isinstance(x, relax.Var):
        return None
    user = int(call.attrs.axis) % x.ty.ndim
    axis = moved_axis(user, x.ty.ndim) if last else user
    parts, begin = [], 0
    for shape in types:
        end = begin + shape[user]  # type: ignore[index]
        piece = relax.op.strided_slice(x, [axis], [begin], [end])
        parts.append(state.emit(builder, piece, state.tag(x), var, call.span))
        begin = end
    return relax.Tuple(parts)


def take(state: Any, builder: Builder, var: Any, call: Any) -> Any:
    """Selected rows or columns, such as a border that is mirrored."""
    x, index = call.args
    if state.tag(x) != CHANNELS_LAST or value_of(index) is None or index.ty.ndim != 1:
        return None
    axis = moved_axis(int(call.attrs.axis), x.ty.ndim)
    return state.emit(builder, relax.op.take(x, index, axis), CHANNELS_LAST, var, call.span)


def resize(state: Any, builder: Builder, var: Any, call: Any) -> Any:
    """Nearest neighbours by a whole factor: every pixel is repeated."""
    x, target, attrs = call.args[0], shape_of(var), call.attrs
    if str(attrs.layout) != "NCHW" or not isinstance(x, relax.Var) or shape_of(x) is None:
        return None
    x = state.channels_last(builder, x)
    n, height, width, channels = shape_of(x)  # type: ignore[misc]
    size = target[2:] if target is not None else ()
    whole = [b % a == 0 for a, b in zip((height, width), size, strict=True)]
    repeats = str(attrs.method) == "nearest_neighbor" and all(whole)
    if not repeats or str(attrs.coordinate_transformation_mode) not in _EVEN:
        options = {name: getattr(attrs, name) for name in _RESIZE}
        resized = relax.op.image.resize2d(x, relax.ShapeExpr(size), layout="NHWC", **options)
        return state.emit(builder, resized, CHANNELS_LAST, var, call.span)
    rows, columns = size[0] // height, size[1] // width
    apart = builder.emit(relax.op.reshape(x, (n, height, 1, width, 1, channels)))
    repeated = relax.op.broadcast_to(apart, (n, height, rows, width, columns, channels))
    joined = relax.op.reshape(builder.emit(repeated), (n, *size, channels))
    return state.emit(builder, joined, CHANNELS_LAST, var, call.span)


#: Transformations under which output pixel i of a whole factor f reads input pixel i // f.
_EVEN = ("asymmetric", "half_pixel", "pytorch_half_pixel")
_RESIZE = (
    "method",
    "coordinate_transformation_mode",
    "rounding_method",
    "cubic_alpha",
    "cubic_exclude",
)

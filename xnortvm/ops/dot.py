# SPDX-License-Identifier: Apache-2.0
"""The packed dot product inside `bconv2d` and `bdense`: counts of differing bits, by a `Form`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

from xnortvm._tvm import te, tirx
from xnortvm.ops.dot_form import NIBBLE, Form
from xnortvm.ops.intrinsics import popcount_bytes, sum_bytes, table_popcount
from xnortvm.ops.intrinsics_pairwise import WORDS, paired_popcount, pairwise_popcount

if TYPE_CHECKING:
    from xnortvm.schedules.isa import Isa


def spread(x: Any, channels: int, groups: int, form: Form) -> Any:
    """Return the activations as the form reads them: words, or offsets of table rows.

    Parameters
    ----------
    x : te.Tensor
        (..., G · ceil(C / 32)) uint32.
    channels : int
        C, of one group.

    Returns
    -------
    te.Tensor
        x itself; for tables (..., ceil(C / 4)) uint8, row numbers times the row's bytes / 8: what
        an address is computed from without a shift.
    """
    if form.name != "table":
        return x
    *lead, _ = x.shape
    scale = form.lanes // 8

    def row(*index: Any) -> Any:
        word, nibble = tirx.floordiv(index[-1], 8), tirx.floormod(index[-1], 8)
        bits = x(*index[:-1], word) >> (nibble * NIBBLE).astype("uint32")
        return ((bits & tirx.const(15, "uint32")) * tirx.const(scale, "uint32")).astype("uint8")

    shape = (*lead, groups * form.steps(channels))
    return te.compute(shape, row, name="rows", attrs={"xnortvm.op": "rows"})


def differing(
    weights: Sequence[Any], form: Form, isa: Isa, elements: Sequence[Any], place: Sequence[Any]
) -> Any:
    """Return the count of differing bits of one step, in the lanes of the form.

    Parameters
    ----------
    weights : sequence of te.Tensor
        What `kernel_weights` returned.
    elements : sequence of expression
        `Form.elements` of the `spread` activations.
    place : sequence of expression
        Where in the weights its partner is, the lane last.
    """
    if form.elements > 1:
        return _differing_vectors(weights, form, isa, elements, place)
    (a,), w = elements, weights[0](*place)
    if form.name != "table":
        bits = (a ^ w) & weights[1](*place) if form.masked else a ^ w
        return tirx.popcount(bits) if form.name == "word" else popcount_bytes(bits)
    row = weights[1][a.astype("int32") * 8 + place[-1]]
    return table_popcount(row, w, a, scale=form.lanes // 8, flavour=isa.table)


def _differing_vectors(
    weights: Sequence[Any], form: Form, isa: Isa, elements: Sequence[Any], place: Sequence[Any]
) -> Any:
    w = [weights[0](*place, word) for word in range(WORDS)]
    if form.name == "paired":
        return paired_popcount(elements, w, flavour=isa.pairwise)
    step, mask = place[-2], []
    if form.masked:
        mask = [weights[1](*place, word) for word in range(WORDS)]
    elif len(weights) > 1:
        elements = [a & weights[1](step, word) for word, a in enumerate(elements)]
    return pairwise_popcount(elements, w, mask, flavour=isa.pairwise)


def split_reduction(extents: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Split each reduction axis evenly into (chunks, steps): as few chunks as ``limit`` allows.

    Of equals the one whose last axes are whole.

    Examples
    --------
    >>> split_reduction([3, 3, 4], 31)
    [(3, 1), (1, 3), (1, 4)]
    >>> split_reduction([3, 3, 128], 63)
    [(3, 1), (1, 3), (8, 16)]
    """
    choices = [[size for size in range(1, extent + 1) if extent % size == 0] for extent in extents]
    fitting = (sizes for sizes in product(*choices) if prod(sizes) <= limit)
    best = max(fitting, key=lambda sizes: (prod(sizes), sizes[::-1]))
    return [(extent // size, size) for extent, size in zip(extents, best, strict=True)]


def differing_bits(
    shape: Sequence[int],
    extents: Sequence[int],
    step: Callable[[Sequence[Any], Sequence[Any]], Any],
    form: Form,
    isa: Isa,
    op: str,
) -> Any:
    """Return the tensor of summed popcounts.

    Parameters
    ----------
    shape : sequence of int
        Shape of the result, channels last.
    extents : sequence of int
        The reduction: steps in each of its axes.
    step : callable
        From the indices of the result and of the reduction to `differing`.
    form : Form
        Decides between counts in words and counts in byte lanes.
    op : str
        Block attribute "xnortvm.op".

    Notes
    -----
    Byte lanes are cut into chunks that cannot overflow (``bytes``); chunks are added up in wider
    lanes (``count``): the four bytes of a word, or each byte on its own.
    """
    attrs = {"xnortvm.op": op, "xnortvm.form": form.name, "xnortvm.lanes": form.lanes}
    if form.limit is None:
        axes = [te.reduce_axis((0, extent), f"r{i}") for i, extent in enumerate(extents)]
        return te.compute(
            shape, lambda *index: te.sum(step(index, axes), axis=axes), name="count", attrs=attrs
        )
    split = split_reduction(extents, form.limit)
    inner = [te.reduce_axis((0, size), f"r{i}") for i, (_, size) in enumerate(split)]
    cut = [i for i, (chunks, _) in enumerate(split) if chunks > 1]
    if form.pixels > 1:  # two pixels in a lane are always taken apart
        cut = cut or [0]
        shape = (*shape[:-2], shape[-2] // form.pixels, shape[-1])

    def chunk(*index: Any) -> Any:
        outer = dict(zip(cut, index[len(shape) :], strict=True))
        at = [outer[i] * split[i][1] + axis if i in outer else axis for i, axis in enumerate(inner)]
        return te.sum(step(_first_pixel(index[: len(shape)], form), at), axis=inner)

    chunks = [split[i][0] for i in cut]
    by_bytes = te.compute(
        (*shape, *chunks), chunk, name="bytes", attrs={**attrs, "xnortvm.op": f"{op}.bytes"}
    )
    wide = "uint16" if prod(extents) * form.bits < 1 << 16 else "uint32"
    if not cut:
        return te.compute(
            shape, lambda *i: _widened(by_bytes, i, form, isa, wide), name="count", attrs=attrs
        )
    outer = [te.reduce_axis((0, size), f"q{i}") for i, size in enumerate(chunks)]
    return te.compute(
        (*shape[:-2], shape[-2] * form.pixels, shape[-1]),
        lambda *index: te.sum(_widened(by_bytes, (*index, *outer), form, isa, wide), axis=outer),
        name="count",
        attrs=attrs,
    )


def _first_pixel(index: Sequence[Any], form: Form) -> Sequence[Any]:
    if form.pixels == 1:
        return index
    *lead, column, channel = index
    return [*lead, column * form.pixels, channel]


def _widened(chunks: Any, index: Sequence[Any], form: Form, isa: Isa, wide: str) -> Any:
    """Return the sum of one chunk, for one pixel and channel, in lanes of ``wide``."""
    if form.name == "byte":
        return sum_bytes(chunks(*index), isa.sum_bytes)
    if form.pixels == 1:
        return chunks(*index).astype(wide)
    n, row, column, *rest = index
    counts = chunks(n, row, tirx.floordiv(column, 2), *rest)
    shift = (tirx.floormod(column, 2) * 8).astype("uint16")
    return ((counts >> shift) & tirx.const(255, "uint16")).astype(wide)


def twice(count: Any, index: Sequence[Any], total: int) -> Any:
    """Return 2 · count as int32, doubled in 16-bit lanes where 2 · total fits them."""
    value = count(*index)
    if str(count.dtype) == "uint16" and 2 * total < 1 << 16:
        return (value * tirx.const(2, "uint16")).astype("int32")
    return tirx.const(2, "int32") * value.astype("int32")

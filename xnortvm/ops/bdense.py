# SPDX-License-Identifier: Apache-2.0
"""``relax.xnortvm.bdense``: packed ±1 rows times packed ±1 weights, ``acc = K − 2·popcount``.

Weights that are 0 are masked, ``popcount((a xor w) and mask)``, and K is the number of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xnortvm._tvm import TensorType, relax, te, tirx
from xnortvm.ops.channels import lane_of
from xnortvm.ops.dot import differing, differing_bits, twice
from xnortvm.ops.dot_form import Form, Shape, form_of
from xnortvm.ops.dot_weights import kernel_weights
from xnortvm.ops.layout import is_masked, unpack_weights, words
from xnortvm.ops.problem import Problem, sum_te
from xnortvm.ops.registry import constant_value, make_call, register_relax_op, static_shape
from xnortvm.schedules.decisions import decided

if TYPE_CHECKING:
    from xnortvm.schedules.isa import Isa

NAME = "relax.xnortvm.bdense"


def _infer_type(call: Any) -> TensorType:
    rows, packed = static_shape(call.args[0])
    outputs, per_row = static_shape(call.args[1])
    channels = int(call.attrs["channels"])
    if per_row not in (packed, 2 * packed) or packed != words(channels):
        raise ValueError(f"{channels} inputs do not fill rows of {packed} and {per_row} words")
    return TensorType((rows, outputs), "int32")


register_relax_op(NAME, ["a", "w"], _infer_type)


def bdense(a: Any, w: Any, *, channels: int, layer: str = "") -> Any:
    """Return a call that multiplies packed signs.

    Parameters
    ----------
    a : relax.Expr
        (M, ceil(K / 32)) uint32, bit 1 is −1.
    w : relax.Expr
        (O, ceil(K / 32)) uint32, constant; twice as many words with a mask, see
        `xnortvm.ops.pack_weights`.
    channels : int
        K.

    Returns
    -------
    relax.Call
        (M, O) int32, the exact accumulator.
    """
    return make_call(NAME, [a, w], channels=int(channels), layer=layer)


def dense_form(isa: Isa, channels: int, outputs: int, *, masked: bool = False) -> Form:
    """Return how a dense layer counts; rows share no vectors of weights."""
    return form_of(isa, Shape(channels, outputs, masked=masked))


def bdense_te(
    a: Any, weights: Sequence[Any], terms: Any = None, *, outputs: int, channels: int, isa: Isa
) -> Any:
    """Return the tensor expression; ``weights`` are made by `kernel_weights`.

    With masked weights ``terms`` (O,) int32 counts those that are not 0.
    """
    rows, (w, *_) = int(a.shape[0]), weights
    form = dense_form(isa, channels, outputs, masked=terms is not None)
    if form.name == "plain":
        problem = Problem(rows, 1, 1, channels, outputs, masked=form.masked, rank=2)
        return _accumulator(sum_te(a, w, problem, "bdense"), terms, outputs, channels)

    def step(index: Sequence[Any], at: Sequence[Any]) -> Any:
        block, lane = lane_of(index[1], form.lanes)
        first = at[0] * form.elements
        elements = [a[index[0], first + element] for element in range(form.elements)]
        return differing(weights, form, isa, elements, (block, at[0], lane))

    padded = int(w.shape[0]) * form.lanes
    count = differing_bits((rows, padded), (form.steps(channels),), step, form, isa, "bdense")
    return _accumulator(count, terms, outputs, channels)


def _accumulator(count: Any, terms: Any, outputs: int, channels: int) -> Any:
    """Return ``K − 2·count`` (M, O), with K of ``terms`` if there are any."""

    def accumulator(m: Any, o: Any) -> Any:
        total = tirx.const(channels, "int32") if terms is None else terms[o]
        return total - twice(count, (m, o), channels)

    shape = (int(count.shape[0]), outputs)
    return te.compute(shape, accumulator, name="acc", attrs={"xnortvm.op": "accumulator"})


def legalize(bb: Any, call: Any, isa: Isa) -> Any:
    """Lower a call of `bdense` to TIR, with the weights blocked for the vector length."""
    packed = constant_value(call.args[1])
    if packed is None:
        raise ValueError("the weights of bdense must be a constant")
    isa, _ = decided(call.attrs, isa)
    channels = int(call.attrs["channels"])
    masked = is_masked(packed.shape[1], channels)
    extra = []
    if masked:
        terms = np.count_nonzero(unpack_weights(packed, channels), axis=1)
        extra.append(relax.const(terms.astype("int32")))
    form = dense_form(isa, channels, packed.shape[0], masked=masked)
    weights = kernel_weights(packed, channels, form)

    def compute(a: Any, *args: Any) -> Any:
        kernel, terms = args[: len(weights)], args[len(weights) :]
        return bdense_te(a, kernel, *terms, outputs=packed.shape[0], channels=channels, isa=isa)

    return bb.call_te(
        compute,
        call.args[0],
        *map(relax.const, weights),
        *extra,
        primfunc_name_hint="xnortvm_bdense",
    )

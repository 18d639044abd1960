# SPDX-License-Identifier: Apache-2.0
"""What is known about an integer: how large it can be, and whether it is odd or even."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from xnortvm.graph.dataflow import Values, op_name, shape_of, value_of
from xnortvm.ops.layout import is_masked, unpack_weights

Array = np.ndarray[Any, Any]

#: Operators that give the accumulator of a binary layer.
ACCUMULATORS = frozenset({"relax.xnortvm.bconv2d", "relax.xnortvm.bdense"})


def accumulator_bound(values: Values, var: Any) -> int | None:
    """Return the largest magnitude of an integer, None when nothing is known.

    Parameters
    ----------
    values : Values
        Who computes what.
    var : Var or constant
        An int32 value: an accumulator, a reshaped one, or a sum of them.
    """
    constant = value_of(var)
    if constant is not None:
        return int(np.abs(constant).max())
    call = values.producer(var)
    name = op_name(call)
    if name == "relax.xnortvm.bconv2d":
        base = value_of(call.args[2])
        assert base is not None
        terms = _terms(call)
        # An integer offset of the activations is part of the table.
        return int(max(terms, np.abs(base).max(), np.abs(base - 2 * terms).max()))
    if name == "relax.xnortvm.bdense":
        return int(call.attrs["channels"])
    if name == "relax.reshape":
        return accumulator_bound(values, call.args[0])
    if name == "relax.add":
        first, second = (accumulator_bound(values, arg) for arg in call.args)
        return None if first is None or second is None else first + second
    return None


def _terms(call: Any) -> int:
    """Return the largest number of products that an output of a convolution adds up."""
    per_group = int(call.attrs["channels"]) // int(call.attrs["groups"])
    shape, packed = shape_of(call.args[1]) or (), value_of(call.args[1])
    if packed is None or not is_masked(packed.shape[-1], per_group):
        return prod(shape[1:3]) * per_group
    return int(np.count_nonzero(unpack_weights(packed, per_group), axis=(1, 2, 3)).max())


def accumulator_parity(values: Values, var: Any) -> Array | None:
    """Return what an integer is modulo 2, per output channel; None where that varies."""
    constant = value_of(var)
    if constant is not None:
        return constant % 2
    call = values.producer(var)
    name = op_name(call)
    if name in ACCUMULATORS:
        return call_parity(call)
    if name == "relax.reshape":
        before, after = shape_of(call.args[0]), shape_of(var)
        same = before is not None and after is not None and before[-1] == after[-1]
        return accumulator_parity(values, call.args[0]) if same else None
    if name == "relax.add":
        first, second = (accumulator_parity(values, arg) for arg in call.args)
        return None if first is None or second is None else (first + second) % 2
    return None


def call_parity(call: Any) -> Array | None:
    """Return the parity of a binary layer's accumulator per channel; None where it varies."""
    if op_name(call) == "relax.xnortvm.bdense":
        packed, channels = value_of(call.args[1]), int(call.attrs["channels"])
        if packed is None or not is_masked(packed.shape[1], channels):
            return np.asarray(channels % 2)
        return np.count_nonzero(unpack_weights(packed, channels), axis=1) % 2
    base = value_of(call.args[2])
    return base[0, 0] % 2 if base is not None and base.shape[:2] == (1, 1) else None

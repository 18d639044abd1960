# SPDX-License-Identifier: Apache-2.0
"""sign of a function of an accumulator → comparison of the accumulator with an integer.

    bitpack(f(acc))   →   threshold_pack(acc, T, flip):   bit = ((acc xor flip) < T)

f is monotone for each channel (and position), so its sign flips once; the integer at which it does
is found by evaluating the original float expression (`IntegerFunction.flip`), operator by operator
in float32, so that the packed bits are those of PyTorch. Where f falls, flip = -1 reverses the
order of the integers: acc xor -1 = -acc - 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xnortvm import ops
from xnortvm._tvm import IRModule
from xnortvm.graph.accumulators import accumulator_bound
from xnortvm.graph.dataflow import Builder, Values, const, op_name, rebuild
from xnortvm.graph.integer_function import Flip, IntegerFunction
from xnortvm.graph.pointwise import Array


def fuse_thresholds(mod: IRModule) -> IRModule:
    """Replace every ``bitpack`` of a monotone function of one accumulator.

    Chains that are not monotone (a PReLU with a negative slope) or that read another value (a
    residual) keep their float expression.
    """
    return rebuild(mod, _visit)


def _visit(builder: Builder, _: Any, call: Any) -> Any:
    if op_name(call) != "relax.xnortvm.bitpack":
        return None
    found = find_threshold(builder, call.args[0], str(call.attrs["zero"]))
    if found is None:
        return None
    acc, threshold, flip = found
    return ops.threshold_pack(acc, const(threshold), const(flip), groups=int(call.attrs["groups"]))


def find_threshold(values: Values, var: Any, zero: str) -> tuple[Any, Array, Array] | None:
    """Find T and flip such that ``(acc ^ flip) < T`` is the bit of a value.

    Returns
    -------
    tuple or None
        The accumulator, T and flip (int32, broadcastable to it).
    """
    function = IntegerFunction.of(values, var)
    if function is None or not function.chain:
        return None
    bound = accumulator_bound(values, function.source)
    found = None if bound is None else function.flip(bound)
    if found is None:
        return None
    threshold, flip = encode(found, bound, zero)
    return function.source, threshold, flip


def encode(found: Flip, bound: int, zero: str) -> tuple[Array, Array]:
    """Turn a change of sign into (T, flip), both int32.

    The bit is 1 where the sign is -1: f < 0, and f = 0 too when sign(0) is -1.
    """
    # Rising: negative below `first`; f = 0 on [first, first_strict).
    rising = found.first_strict if zero == "-1" else found.first
    # Falling: negative from `first_strict` on; f = 0 on [first, first_strict).
    falling = found.first if zero == "-1" else found.first_strict
    # n >= t  ⇔  -n - 1 < -t  ⇔  (n xor -1) < -t
    threshold = np.where(found.rising, rising, -falling)
    limit = bound + 2
    threshold = np.clip(threshold, -limit, limit).astype(np.int32)
    return threshold, np.where(found.rising, 0, -1).astype(np.int32)

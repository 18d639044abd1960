# SPDX-License-Identifier: Apache-2.0
"""Two-valued activations: a sign, perhaps scaled, shifted, padded, pooled or reshaped."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from xnortvm._tvm import relax
from xnortvm.graph.dataflow import Values, op_name, shape_of, value_of
from xnortvm.patterns.reject import Reject
from xnortvm.patterns.zeros import ZeroPolicy, structural_zero


@dataclass(frozen=True)
class BinaryActivations:
    """Activations a·v + b with v in {-1, +1}, or {-1, 0, +1} where `zeros` says so.

    Attributes
    ----------
    var : Var
        v, in float: the result of a sign, a max-pool of one, ... .
    scale, offset : float
        a and b; sign idioms that give ±1 have a = 1 and b = 0.
    padding : tuple of int
        Rows and columns (top, left, bottom, right) that an explicit pad adds around v.
    pad_value : float
        What it adds, in units of v (+1, -1), or 0 for real zeros.
    zeros : str
        "" when v is never 0 on purpose, else why it can be.
    """

    var: Any
    scale: float = 1.0
    offset: float = 0.0
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    pad_value: float = 0.0
    zeros: str = ""


#: Operators of two-valued values that give the same two values.
PASS_THROUGH = frozenset(
    {
        "relax.nn.max_pool2d",
        "relax.reshape",
        "relax.permute_dims",
        "relax.strided_slice",
        "relax.broadcast_to",
        "relax.take",
    }
)


def binary_activations(values: Values, var: Any, policy: ZeroPolicy) -> BinaryActivations | Reject:
    """Follow a layer's input back to the sign that made it.

    Parameters
    ----------
    values : Values
        Who computes what; sign idioms in their one form, `xnortvm.sign`.
    var : Var
        The layer's input, channels last.
    policy : ZeroPolicy
        What to do with torch.sign of values that are 0 on purpose.
    """
    call = values.producer(var)
    name = op_name(call)
    if name == "relax.xnortvm.sign":
        return _sign(values, var, call, policy)
    if name in ("relax.multiply", "relax.add"):
        return _scaled(values, call, name, policy)
    if name == "relax.nn.pad":
        return _padded(values, call, policy)
    if name in PASS_THROUGH:
        inner = binary_activations(values, call.args[0], policy)
        if isinstance(inner, Reject):
            return inner
        if inner.scale < 0 and name == "relax.nn.max_pool2d":
            return Reject(
                "its input is the maximum of a sign times a negative number",
                "pool before the multiplication, or multiply by a positive number",
            )
        if any(inner.padding):
            return Reject(
                f"its input is padded before {name.removeprefix('relax.')}",
                "pad right before the layer",
            )
        return (
            replace(inner, var=var)
            if (inner.scale, inner.offset) == (1.0, 0.0)
            else Reject(
                f"its input is a scaled sign behind {name.removeprefix('relax.')}",
                "multiply by the scale after the layer instead of before it",
            )
        )
    if name == "relax.concat":
        return _concat(values, var, call, policy)
    return Reject(
        f"its input is real-valued: it comes from {_describe(values, call, var)}, not from a sign",
        "apply sign to its input if this layer should be binary",
    )


def _sign(values: Values, var: Any, call: Any, policy: ZeroPolicy) -> BinaryActivations:
    if str(call.attrs["zero"]) != "0":
        return BinaryActivations(var)
    return BinaryActivations(var, zeros=structural_zero(values, call.args[0], policy.samples) or "")


def _scaled(values: Values, call: Any, name: str, policy: ZeroPolicy) -> BinaryActivations | Reject:
    factor, inner_var = None, None
    for mine, other in ((0, 1), (1, 0)):
        value = value_of(call.args[mine])
        if value is not None and value.size == 1:
            factor, inner_var = float(value.item()), call.args[other]
    if factor is None or not isinstance(inner_var, relax.Var):
        return _not_a_number(values, call, name, policy)
    inner = binary_activations(values, inner_var, policy)
    if isinstance(inner, Reject):
        return inner
    if any(inner.padding):
        return Reject("its input is padded before it is scaled", "scale before the padding")
    if name == "relax.multiply":
        if factor == 0:
            return Reject("its input is a sign times 0", "check the scale in the checkpoint")
        return replace(inner, scale=inner.scale * factor, offset=inner.offset * factor)
    return replace(inner, offset=inner.offset + factor)


def _not_a_number(values: Values, call: Any, name: str, policy: ZeroPolicy) -> Reject:
    """Say what is wrong with a product of a sign and something else than a number."""
    for mine, other in ((0, 1), (1, 0)):
        source, factor = call.args[mine], call.args[other]
        if name != "relax.multiply" or not isinstance(source, relax.Var):
            continue
        if isinstance(binary_activations(values, source, policy), Reject):
            continue
        size = "×".join(map(str, shape_of(factor) or ())) or "unknown shape"
        if (shape_of(factor) or (0,))[-1] == 1:
            return Reject(
                f"its input is a sign times a map of scales ({size}), and its window adds up "
                "pixels of different scale",
                "multiply behind the convolution, as XNOR-Net does with its map K",
            )
        return Reject(
            f"its input is a sign times a scale for each channel ({size}), which differs from "
            "term to term of its sum",
            "use one scale for all channels, or scale the output channels behind the layer",
        )
    return Reject(
        "its input is real-valued: a sum or product that is not a sign times a number",
        "multiply by the scale after the layer instead of before it",
    )


def _padded(values: Values, call: Any, policy: ZeroPolicy) -> BinaryActivations | Reject:
    widths = [int(w) for w in call.attrs.pad_width]
    if str(call.attrs.pad_mode) != "constant" or len(widths) != 8 or any(widths[:2] + widths[6:]):
        return Reject(
            "its input is padded in a way that is not a constant border of the map",
            "pad rows and columns with 0, +1 or -1",
        )
    if min(widths) < 0:
        return Reject("its input is cropped by a negative padding", "crop before the sign")
    inner = binary_activations(values, call.args[0], policy)
    if isinstance(inner, Reject) or not any(widths):
        return inner
    if any(inner.padding):
        return Reject("its input is padded twice", "pad once, by the sum of both")
    padded = (float(call.attrs.pad_value) - inner.offset) / inner.scale
    if float(call.attrs.pad_value) != 0 and abs(padded) != 1:
        return Reject(
            f"its input is padded with {float(call.attrs.pad_value):g}, a third value",
            "pad with 0, +1 or -1",
        )
    value = 0.0 if float(call.attrs.pad_value) == 0 else padded
    return replace(inner, padding=(widths[2], widths[4], widths[3], widths[5]), pad_value=value)


def _concat(values: Values, var: Any, call: Any, policy: ZeroPolicy) -> BinaryActivations | Reject:
    parts = [binary_activations(values, field, policy) for field in call.args[0].fields]
    for part in parts:
        if isinstance(part, Reject):
            return part
        if (part.scale, part.offset) != (1.0, 0.0) or any(part.padding):
            return Reject(
                "its input joins signs with different scales or paddings",
                "apply scale and padding behind the concatenation",
            )
    zeros = [part.zeros for part in parts if isinstance(part, BinaryActivations)]
    return BinaryActivations(var, zeros=next(filter(None, zeros), ""))


def _describe(values: Values, call: Any, var: Any) -> str:
    if isinstance(call, relax.TupleGetItem):
        call = values.producer(call.tuple_value)
    name = op_name(call)
    if not name:
        return f"the network's input {var.name}" if isinstance(var, relax.Var) else "a constant"
    if name == "relax.call_dps_packed":
        name = "an operator that cannot be compiled"
    shape = shape_of(var)
    size = "×".join(map(str, shape)) if shape else "?"
    return f"{name.removeprefix('relax.').removeprefix('nn.').removeprefix('xnortvm.')} ({size})"

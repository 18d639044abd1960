# SPDX-License-Identifier: Apache-2.0
"""QONNX quantisers (Brevitas) written with standard ONNX operators.

`BipolarQuant(x, s)` is ``s`` where ``x >= 0`` and ``-s`` elsewhere. `Quant(x, s, z, bits)` is
``s · (round(clip(x / s + z, low, high)) - z)`` with the integer range of `bits` bits. Definitions:
qonnx, ``custom_op/general/{bipolar_quant,quant}.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper

from xnortvm.errors import UnsupportedOperatorError

DOMAINS = frozenset({"finn.custom_op.general", "onnx.brevitas", "qonnx.custom_op.general"})


class _Lowering:
    """Collects the nodes that replace one node."""

    def __init__(self, node: Any, constants: dict[str, np.ndarray[Any, Any]]) -> None:
        self.node = node
        self.nodes: list[Any] = []
        self._constants = constants

    def constant(self, value: Any) -> str:
        name = f"{self.node.output[0]}/constant_{len(self._constants)}"
        self._constants[name] = np.asarray(value)
        return name

    def known(self, name: str) -> np.ndarray[Any, Any]:
        if name not in self._constants:
            raise UnsupportedOperatorError(
                f"{self.node.op_type} node {self.node.name!r} has input {name!r} that is computed "
                "from the model's input; scale, zero point and bit width must be constants"
            )
        return self._constants[name]

    def add(self, op_type: str, *inputs: str, output: str | None = None) -> str:
        output = output or f"{self.node.output[0]}/{op_type}_{len(self.nodes)}"
        made = helper.make_node(op_type, list(inputs), [output], name=self.node.name)
        made.metadata_props.extend(self.node.metadata_props)
        self.nodes.append(made)
        return output


def _bipolar(lower: _Lowering) -> None:
    x, scale = lower.node.input[:2]
    value = lower.known(scale)
    if not (value > 0).all():
        x = lower.add("Div", x, scale)
    positive = lower.add("GreaterOrEqual", x, lower.constant(value.dtype.type(0)))
    lower.add("Where", positive, scale, lower.constant(-value), output=lower.node.output[0])


_ROUNDING = {"ROUND": "Round", "CEIL": "Ceil", "FLOOR": "Floor"}


def _quant(lower: _Lowering) -> None:
    x, scale, zero, bits = lower.node.input[:4]
    attributes = {a.name: helper.get_attribute_value(a) for a in lower.node.attribute}
    mode = attributes.get("rounding_mode", b"ROUND").decode().upper()
    if mode not in _ROUNDING:
        raise UnsupportedOperatorError(
            f"Quant node {lower.node.name!r} has rounding_mode {mode!r}; "
            f"{', '.join(_ROUNDING)} can be compiled"
        )
    low, high = _integer_range(
        lower.known(bits), bool(attributes.get("signed", 1)), bool(attributes.get("narrow", 0))
    )
    dtype = lower.known(scale).dtype
    shifted = lower.add("Add", lower.add("Div", x, scale), zero)
    low_name, high_name = (lower.constant(v.astype(dtype)) for v in (low, high))
    clipped = lower.add("Min", lower.add("Max", shifted, low_name), high_name)
    rounded = lower.add(_ROUNDING[mode], clipped)
    lower.add("Mul", lower.add("Sub", rounded, zero), scale, output=lower.node.output[0])


def _integer_range(bits: Any, signed: bool, narrow: bool) -> tuple[Any, Any]:
    bits = np.asarray(bits, "float64")
    if signed:
        return -(2.0 ** (bits - 1)) + narrow, 2.0 ** (bits - 1) - 1
    return 0.0 * bits, 2.0**bits - 1 - narrow


RULES: dict[str, Callable[[_Lowering], None]] = {"BipolarQuant": _bipolar, "Quant": _quant}


def lower_quantisers(nodes: list[Any], constants: dict[str, np.ndarray[Any, Any]]) -> list[Any]:
    """Replace QONNX quantisers.

    Parameters
    ----------
    nodes : list of onnx.NodeProto
    constants : dict of str to ndarray
        Known values by name; the constants of the lowered form are added.

    Returns
    -------
    list of onnx.NodeProto

    Raises
    ------
    UnsupportedOperatorError
        For a quantiser whose parameters depend on the input, or with another rounding mode.
    """
    lowered = []
    for node in nodes:
        rule = RULES.get(node.op_type) if node.domain in DOMAINS else None
        if rule is None:
            lowered.append(node)
            continue
        lowering = _Lowering(node, constants)
        rule(lowering)
        lowered.extend(lowering.nodes)
    return lowered

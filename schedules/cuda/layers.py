# SPDX-License-Identifier: Apache-2.0
"""What templates for products of matrices read of a function before they make its kernel.

On CUDA cores a sum is packed or of floats, and a lane computes a channel (`Layer`). Tensor cores
count packed ones (`PackedLayer`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xnortvm.ops.layout import WORD
from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda.epilogue import (
    Anchor,
    Epilogue,
    NotElementwiseError,
    read_anchor,
    read_epilogue,
)
from xnortvm.schedules.cuda.gemm import Gemm
from xnortvm.schedules.cuda.lanes import Lanes, lanes_of


class Layer(NamedTuple):
    """A product on CUDA cores, and what becomes of its sums."""

    problem: Problem
    lanes: Lanes
    epilogue: Epilogue
    activations: Any
    weights: Any


class PackedLayer(NamedTuple):
    """A product on tensor cores, what becomes of its sums, and which parameter has the weights."""

    gemm: Gemm
    epilogue: Epilogue
    activations: Any
    number: int


def product_of(anchor: Anchor | None) -> Problem | None:
    """Return the product of two parameters that an anchor is; None where it is none."""
    if anchor is None or len(anchor.operands) != 2:
        return None
    return anchor.problem or anchor.floats


def packed_product_of(anchor: Anchor | None) -> Gemm | None:
    """Return the product of bits that an anchor is; None where tensor cores do not count it."""
    if product_of(anchor) is None or anchor is None or anchor.problem is None:
        return None
    try:
        return Gemm.of(anchor.problem)
    except NotElementwiseError:
        return None


def read_layer(func: Any) -> Layer:
    """Return the layer of a function with 32-bit indices.

    Raises
    ------
    NotElementwiseError
        When a template with a channel in each lane does not compute it.
    """
    anchor, epilogue = read_anchor(func), read_epilogue(func)
    problem = product_of(anchor)
    if problem is None or not epilogue.outputs:
        raise NotElementwiseError("the sum is not a plain one")
    lanes = lanes_of(epilogue.outputs)
    if lanes.channels != problem.outputs:
        raise NotElementwiseError("the outputs have other channels than the sum")
    return Layer(problem, lanes, epilogue, *anchor.operands)


def read_packed_layer(func: Any) -> PackedLayer:
    """Return the packed layer of a function with 32-bit indices.

    Raises
    ------
    NotElementwiseError
        When tensor cores do not compute it.
    """
    anchor, epilogue = read_anchor(func), read_epilogue(func)
    if anchor.op not in ("bconv2d", "bdense") or anchor.problem is None:
        raise NotElementwiseError("tensor cores for bits count packed layers")
    if len(anchor.operands) != 2:
        raise NotElementwiseError("something is computed in front of the sum")
    gemm = Gemm.of(anchor.problem)
    _check_words(gemm.problem, epilogue)
    activations, weights = anchor.operands
    number = next(i for i, param in enumerate(func.params) if param.same_as(weights))
    return PackedLayer(gemm, epilogue, activations, number)


def _check_words(problem: Problem, epilogue: Epilogue) -> None:
    """Check that words of packed outputs are 32 neighbouring channels of one group.

    Raises
    ------
    NotElementwiseError
    """
    for output in epilogue.outputs:
        if not output.packed:
            continue
        for groups in (problem.groups, output.groups):
            if groups > 1 and problem.outputs // groups % WORD:
                raise NotElementwiseError("packed groups of channels do not fill words")

# SPDX-License-Identifier: Apache-2.0
"""AArch64 products of a tile as one piece of assembly, whose order LLVM cannot change."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

_VECTOR = "<4 x float>"


class Product(NamedTuple):
    """One ``fmla``: accumulator += weights · activations[lane], as numbers of vectors."""

    accumulator: int
    weights: int
    activations: int
    lane: int


class Load(NamedTuple):
    """A vector in memory: a pointer by its number, and a distance from it in floats."""

    pointer: int
    distance: int


def function_of(
    accumulators: int, loads: Sequence[Load], products: Sequence[Product]
) -> tuple[str, str]:
    """Return a function that loads vectors and multiplies them: its name and its LLVM code.

    Parameters
    ----------
    accumulators : int
        The first so many arguments point to one vector each, which the function adds to. LLVM
        keeps them in registers.
    loads : sequence of Load
        From pointers that are the further arguments, in the order in which they are needed.
    products : sequence of Product
        ``weights`` and ``activations`` are numbers of loads.

    Returns
    -------
    (str, str)
        Equal functions have equal names.
    """
    # Operands: results, then loads, then the accumulators that results take the registers of.
    products_text = "\\0A".join(
        f"fmla ${p.accumulator}.4s, ${accumulators + p.weights}.4s, "
        f"${accumulators + p.activations}.s[{p.lane}]"
        for p in products
    )
    operands = [f"{_VECTOR} %v{i}" for i in range(len(loads))]
    operands += [f"{_VECTOR} %s{i}" for i in range(accumulators)]
    constraints = ["=&w"] * accumulators + ["w"] * len(loads)
    constraints += [*map(str, range(accumulators)), "~{memory}"]  # so that loads stay behind it
    several = accumulators > 1
    result = "{ " + ", ".join([_VECTOR] * accumulators) + " }" if several else _VECTOR
    lines = [f"%s{i} = load {_VECTOR}, ptr %c{i}, align 16" for i in range(accumulators)]
    # LLVM keeps the order of loads from last to first: it schedules a block from its end.
    for i, load in reversed(list(enumerate(loads))):
        lines += [
            f"%p{i} = getelementptr float, ptr %a{load.pointer}, i64 {load.distance}",
            f"%v{i} = load {_VECTOR}, ptr %p{i}, align 4",
        ]
    lines.append(
        f'%r = call {result} asm sideeffect "{products_text}", "{",".join(constraints)}"'
        f"({', '.join(operands)})"
    )
    for i in range(accumulators):
        if several:
            lines.append(f"%t{i} = extractvalue {result} %r, {i}")
        lines.append(f"store {_VECTOR} {f'%t{i}' if several else '%r'}, ptr %c{i}, align 16")
    arguments = [f"ptr %c{i}" for i in range(accumulators)]
    arguments += [f"ptr %a{i}" for i in range(1 + max(load.pointer for load in loads))]
    body = "\n  ".join([f"({', '.join(arguments)}) alwaysinline nounwind {{", *lines, "ret void"])
    name = "xnortvm_fmla_" + hashlib.sha256(body.encode()).hexdigest()[:16]
    return name, f"define linkonce_odr void @{name}{body}\n}}\n"

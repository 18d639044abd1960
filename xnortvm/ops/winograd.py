# SPDX-License-Identifier: Apache-2.0
"""Winograd's (Toom-Cook's) matrices, in fractions, for convolutions with any stride.

F(m, r) computes m outputs of a correlation with r taps by m + r - 1 multiplications instead of
m · r: ``y = Aᵀ [(G g) ⊙ (Bᵀ d)]``. A convolution of stride s is the sum of s correlations of stride
1 (its *phases*: inputs and taps whose positions are equal modulo s); they are added before Aᵀ.

One point of evaluation is infinity, where only a tap of the highest degree counts: phases with
fewer taps contribute nothing there.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

#: Finite points by their number. Chosen by error (largest difference from float64 over random
#: data, 12 channels), and so that the sums of the transforms have few terms.
POINTS: dict[int, tuple[Fraction, ...]] = {
    count: tuple(Fraction(point) for point in points)
    for count, points in {
        0: (),
        1: ("0",),
        2: ("0", "1"),
        3: ("0", "1", "-1"),
        4: ("0", "1", "-1", "1/2"),
        5: ("0", "1", "-1", "2", "-1/2"),
        6: ("0", "1", "-1", "2", "1/2", "-2/3"),
    }.items()
}


@dataclass(frozen=True)
class Transforms:
    """The matrices of F(m, r), n = m + r - 1.

    Attributes
    ----------
    output : tuple of m rows of n
        Aᵀ.
    weight : tuple of n rows of r
        G.
    input : tuple of n rows of n
        Bᵀ.
    """

    output: tuple[tuple[Fraction, ...], ...]
    weight: tuple[tuple[Fraction, ...], ...]
    input: tuple[tuple[Fraction, ...], ...]


@cache
def transforms(m: int, r: int) -> Transforms:
    """Return the matrices of F(m, r); the last of the n points is infinity.

    Examples
    --------
    >>> [[str(c) for c in row] for row in transforms(2, 2).input]
    [['-1', '1', '0'], ['0', '1', '0'], ['0', '-1', '1']]
    """
    points = POINTS[m + r - 2]
    n = len(points) + 1
    zero, one = Fraction(0), Fraction(1)
    output = [[p**i for p in points] + [one if i == m - 1 else zero] for i in range(m)]
    weight, rows = [], []
    for point in points:
        others = [p for p in points if p != point]
        norm = one
        for other in others:
            norm *= point - other
        # Moving a power of two between G and Bᵀ rounds nothing; integers in Bᵀ have more digits.
        weight.append([point**i / norm for i in range(r)])
        rows.append(_product(others) + [zero] * (n - len(others) - 1))
    weight.append([zero] * (r - 1) + [one])
    rows.append(_product(points))
    return Transforms(_frozen(output), _frozen(weight), _frozen(rows))


def _product(roots: tuple[Fraction, ...] | list[Fraction]) -> list[Fraction]:
    """Coefficients of the polynomial with these roots, lowest first."""
    poly = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *poly]
        poly = [a - root * b for a, b in zip(shifted, [*poly, Fraction(0)], strict=True)]
    return poly


def _frozen(rows: list[list[Fraction]]) -> tuple[tuple[Fraction, ...], ...]:
    return tuple(tuple(row) for row in rows)


def as_array(rows: tuple[tuple[Fraction, ...], ...]) -> NDArray[np.float64]:
    """Return a matrix of fractions in float64."""
    return np.array([[float(value) for value in row] for row in rows])

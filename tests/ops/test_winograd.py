# SPDX-License-Identifier: Apache-2.0
"""Winograd's matrices compute correlations, exactly in fractions."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from xnortvm.ops.winograd import transforms
from xnortvm.ops.winograd_tile import MOST_POINTS


def _times(matrix: tuple[tuple[Fraction, ...], ...], vector: list[Fraction]) -> list[Fraction]:
    return [sum((a * b for a, b in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]


@pytest.mark.parametrize(
    ("m", "r"),
    [(m, r) for m in range(1, 7) for r in range(1, 8) if m + r - 1 <= MOST_POINTS],
)
def test_every_tile_computes_its_correlation(m: int, r: int) -> None:
    draw = random.Random(10 * m + r)
    taps = [Fraction(draw.randint(-9, 9)) for _ in range(r)]
    data = [Fraction(draw.randint(-9, 9)) for _ in range(m + r - 1)]
    t = transforms(m, r)
    points = [a * b for a, b in zip(_times(t.weight, taps), _times(t.input, data), strict=True)]
    expected = [sum(taps[k] * data[i + k] for k in range(r)) for i in range(m)]
    assert _times(t.output, points) == expected


@pytest.mark.parametrize("r", range(2, 6))
def test_only_the_highest_tap_counts_at_infinity(r: int) -> None:
    assert [bool(factor) for factor in transforms(3, r).weight[-1]] == [False] * (r - 1) + [True]

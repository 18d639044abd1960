# SPDX-License-Identifier: Apache-2.0
"""What the microbenchmarks have to give, in Python alone.

Every thread gives one word: the sum of its accumulators, each times an odd number of its own, so
that a result in another place is seen. The places of the matrix instructions' operands and results
are those of NVIDIA's PTX documentation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import add, mul

WORDS = 16384
LANES = 32
_MASK, _STEP = 0xFFFFFFFF, 0x9E3779B9

Words = Sequence[int]
#: From words of two operands, along the reduction, to their product.
Dot = Callable[[Words, Words], int]


def random_words() -> list[int]:
    """Return the words that all kernels read."""
    random_bits = random.Random(20260101).getrandbits
    return [random_bits(32) for _ in range(WORDS)]


def weighted(values: Sequence[int]) -> int:
    """Return what a thread gives for its accumulators."""
    return sum((2 * i + 1) * value for i, value in enumerate(values)) & _MASK


def popc(source: Words, loops: int) -> list[int]:
    """Return the results of the 32 lanes."""

    def one(x: int) -> int:
        total = 0
        for _ in range(loops):
            total += x.bit_count()
            x = (x + _STEP) & _MASK
        return total

    return [weighted([one(source[lane + 32 * j]) for j in range(8)]) for lane in range(LANES)]


def _chains(source: Words, loops: int, step: Callable[[int, int, int], int]) -> list[int]:
    """Eight numbers, each changed by its neighbour and a constant in turn."""
    results = []
    for lane in range(LANES):
        x = [source[lane + 32 * j] for j in range(8)]
        k = [source[lane + 32 * j + 256] for j in range(8)]
        for _ in range(loops):
            for j in range(8):
                x[j] = step(x[j], x[(j + 1) % 8], k[j])
        results.append(weighted(x))
    return results


def lop3(source: Words, loops: int) -> list[int]:
    """Return the results of the 32 lanes."""
    return _chains(source, loops, lambda a, b, c: a ^ b ^ c)


def iadd3(source: Words, loops: int) -> list[int]:
    """Return the results of the 32 lanes."""
    return _chains(source, loops, lambda a, b, c: (a + b + c) & _MASK)


def _rounds(
    source: Words, loops: int, sizes: tuple[int, int], count: Callable[[Words, Words], Words]
) -> list[int]:
    """Numbers that are counted of words on the left, which change, and on the right."""
    results = []
    for lane in range(LANES):
        a = [source[lane + 32 * i] for i in range(sizes[0])]
        w = [source[lane + 32 * j + 256] for j in range(sizes[1])]
        counts: Words = ()
        for _ in range(loops):
            found = count(a, w)
            counts = list(map(add, counts, found)) if counts else found
            a = [(x + _STEP) & _MASK for x in a]
        results.append(weighted(counts))
    return results


def xnor_popc(source: Words, loops: int) -> list[int]:
    """Return the results of the 32 lanes."""
    return _rounds(source, loops, (4, 8), lambda a, w: [(x ^ y).bit_count() for x in a for y in w])


def xnor_csa7(source: Words, loops: int) -> list[int]:
    """Return the results of the 32 lanes, without a carry-save tree."""
    return _rounds(
        source, loops, (7, 28), lambda a, w: [bits_xor(a, w[j : j + 7]) for j in range(0, 28, 7)]
    )


def bits_xor(a: Words, b: Words) -> int:
    """Return how many bits differ."""
    return sum((x ^ y).bit_count() for x, y in zip(a, b, strict=True))


def bits_and(a: Words, b: Words) -> int:
    """Return how many bits are set in both."""
    return sum((x & y).bit_count() for x, y in zip(a, b, strict=True))


@lru_cache(maxsize=1024)
def small_bytes(words: tuple[int, ...]) -> list[int]:
    """Return the low 7 bits of each byte, as signed numbers."""
    fields = [(word >> shift) & 0x7F for word in words for shift in (0, 8, 16, 24)]
    return [field - 128 if field & 0x40 else field for field in fields]


def bytes_dot(a: Words, b: Words) -> int:
    """Return the product of small signed bytes."""
    return sum(map(mul, small_bytes(tuple(a)), small_bytes(tuple(b))))


def halves_dot(a: Words, b: Words) -> int:
    """Return the product of halves that are 1, or −1 where their lowest bit is set."""
    differ = sum(((x ^ y) & 0x00010001).bit_count() for x, y in zip(a, b, strict=True))
    return 2 * len(a) - 2 * differ


def mma(source: Words, loops: int, dot: Dot, rows: int) -> list[int]:
    """Return the results of the 32 lanes of 8 warp-level products of `rows` × 8.

    Word k of row r of the left operand lies in lane 4·(r mod 8) + k mod 4, register
    (r ≥ 8) + 2·(k ≥ 4); the right one's columns likewise, register k ≥ 4. Lane l holds columns
    2·(l mod 4) and the next of row l / 4, then of row l / 4 + 8.
    """
    steps = 8 if rows == 16 else 4

    def left(row: int) -> Words:
        lane, half = 4 * (row % 8), row // 8
        return [source[lane + k % 4 + 32 * (half + 2 * (k // 4))] for k in range(steps)]

    def right(j: int, column: int) -> Words:
        registers = steps // 4
        return [
            source[4 * column + k % 4 + 32 * (registers * j + k // 4) + 256] for k in range(steps)
        ]

    a = [left(row) for row in range(rows)]
    results = []
    for lane in range(LANES):
        values = []
        for j in range(8):
            b = [right(j, 2 * (lane % 4) + i) for i in range(2)]
            values += [
                loops * dot(a[row], column) for row in range(lane // 4, rows, 8) for column in b
            ]
        results.append(weighted(values))
    return results


def wgmma(source: Words, loops: int, dot: Dot, columns: int, *, swapped: bool = False) -> list[int]:
    """Return the results of the 256 threads of two warpgroups, 64 × `columns` each.

    Row r, chunk q of 16 bytes lies at r / 8 · 1024 + q · 128 + r mod 8 · 16; `swapped` reads the
    two strides of the descriptor the other way round, which tells a mistake of ours in them from
    other ones.
    """

    def line(base: int, row: int) -> Words:
        words: list[int] = []
        for chunk in range(8):
            if swapped:
                place = 256 * (chunk // 2) + row // 8 * 128 + chunk % 2 * 1024
            else:
                place = row // 8 * 1024 + chunk * 128
            first = (base + place + row % 8 * 16) // 4
            words += source[first : first + 4]
        return words

    b = [line(16384, column) for column in range(columns)]
    results = []
    for group in range(2):
        a = [line(8192 * group, row) for row in range(64)]
        products = [[loops * dot(row, column) for column in b] for row in a]
        for warp in range(4):
            for lane in range(LANES):
                row, first = 16 * warp + lane // 4, 2 * (lane % 4)
                values = [
                    products[row + 8 * half][8 * j + first + i]
                    for j in range(columns // 8)
                    for half in range(2)
                    for i in range(2)
                ]
                results.append(weighted(values))
    return results

# SPDX-License-Identifier: Apache-2.0
"""Which candidate wins against the rule: by turns, so that a slow spell of the machine hits all."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

#: How many of the best compete with the rule, in how many turns.
FINALISTS, TURNS = 3, 15
#: A candidate takes the rule's place when it is at least so much faster in the median turn.
LEAST_GAIN = 1.01


class Winner(NamedTuple):
    """The result of a race.

    Attributes
    ----------
    number : int
        Of the candidates; 0 is the rule.
    us, rule_us : float
        Microseconds of one call; of the winner by its median ratio to the rule.
    noise : float
        Median distance from its median, as a part of it.
    """

    number: int
    us: float
    rule_us: float
    noise: float


def winner(turns: Sequence[Sequence[float]], digests: Sequence[str]) -> Winner:
    """Return who won.

    Parameters
    ----------
    turns : sequence of sequence of float
        For each candidate, the rule first, its microseconds in each turn.
    digests : sequence of str
        Of their outputs: who computes something else than the rule cannot win.
    """
    best, gain = 0, 1.0
    for number in range(1, len(turns)):
        ratio = median(a / b for a, b in zip(turns[0], turns[number], strict=True))
        if digests[number] == digests[0] and ratio > max(gain, LEAST_GAIN):
            best, gain = number, ratio
    rule_us, middle = median(turns[0]), median(turns[best])
    noise = median(abs(each - middle) for each in turns[best]) / middle
    return Winner(best, round(rule_us / gain, 4), round(rule_us, 4), round(noise, 4))

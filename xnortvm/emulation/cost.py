# SPDX-License-Identifier: Apache-2.0
"""What a kernel call costs on a core: instructions, modelled cycles and cache misses, spills."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xnortvm.emulation import mca
from xnortvm.emulation.profile import Block, CallProfile

#: Blocks that make up this share of the instructions are modelled, the others go at their rate.
MODELLED = 0.999

#: Binary multiply-accumulates of one 128-bit step: xor, popcount, add.
STEP = 128

#: Cycles that a miss costs if nothing else goes on meanwhile: from the second cache, from memory.
MISS_CYCLES = (20, 200)

#: Storing a whole vector register on the stack.
_SPILL = re.compile(r"^st[pu]?r? q\d.*\[sp\b")


@dataclass(frozen=True)
class Cost:
    """Of one call, or the sum of several.

    Attributes
    ----------
    instructions : int
        Executed ones.
    cycles : float
        Modelled; every access hits the first cache.
    l1_misses, l2_misses : int
        Of the model of the data caches.
    spills : int
        Instructions of the executed code that put a vector register on the stack.
    """

    instructions: int = 0
    cycles: float = 0.0
    l1_misses: int = 0
    l2_misses: int = 0
    spills: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.instructions + other.instructions,
            self.cycles + other.cycles,
            self.l1_misses + other.l1_misses,
            self.l2_misses + other.l2_misses,
            self.spills + other.spills,
        )


def waiting(cost: Cost) -> float:
    """Return the cycles of a cost when every miss waits alone."""
    return cost.cycles + cost.l1_misses * MISS_CYCLES[0] + cost.l2_misses * MISS_CYCLES[1]


def costs(calls: Sequence[CallProfile], mcpu: str, *, quick: bool = False) -> list[Cost]:
    """Return the cost of every call on one core, within 0.1 % if that must be quick."""
    hot = [hottest(call.blocks) for call in calls]
    known = mca.cycles((block.words for blocks in hot for block in blocks), mcpu, quick=quick)
    return [_cost(call, blocks, known) for call, blocks in zip(calls, hot, strict=True)]


def hottest(blocks: Iterable[Block]) -> list[Block]:
    """Return the blocks that make up nearly all executed instructions, the hottest first."""
    ordered = sorted(blocks, key=lambda b: (-b.times * len(b.words), b.address, len(b.words)))
    wanted = MODELLED * sum(block.times * len(block.words) for block in ordered)
    found, done = [], 0
    for block in ordered:
        found.append(block)
        done += block.times * len(block.words)
        if done >= wanted:
            break
    return found


def _cost(call: CallProfile, hot: Sequence[Block], known: dict[mca.Words, float]) -> Cost:
    modelled = sum(block.times * len(block.words) for block in hot)
    cycles = sum(block.times * known[block.words] for block in hot)
    return Cost(
        instructions=call.instructions,
        cycles=cycles * call.instructions / max(modelled, 1),
        l1_misses=call.l1_misses,
        l2_misses=call.l2_misses,
        spills=spills(call.blocks),
    )


def spills(blocks: Sequence[Block]) -> int:
    """Count the instructions that store a vector register on the stack, each once."""
    places = {block.address + 4 * i: word for block in blocks for i, word in enumerate(block.words)}
    lines = mca.disassemble([tuple(places.values())])[0]
    return sum(bool(_SPILL.match(line)) for line in lines)


def bound(mcpu: str) -> float:
    """Return the fewest cycles that a core needs for a `STEP`: a loop of nothing but steps."""
    registers = range(8)
    loop = [f"eor v{r}.16b, v30.16b, v31.16b" for r in registers]
    loop += [f"cnt v{r}.16b, v{r}.16b" for r in registers]
    loop += [f"add v{r + 8}.16b, v{r}.16b, v{r + 8}.16b" for r in registers]
    passes = 8  # so that what comes before the first result does not show
    return round(mca.model([loop * passes], mcpu)[0] / len(registers) / passes, 2)


def float_bound(mcpu: str) -> float:
    """Return the fewest cycles for a float multiply-accumulate: a loop of nothing but ``fmla``."""
    loop = [f"fmla v{register}.4s, v30.4s, v31.s[0]" for register in range(30)]
    passes, lanes = 8, 4
    return round(mca.model([loop * passes], mcpu)[0] / len(loop) / passes / lanes, 3)

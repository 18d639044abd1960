# SPDX-License-Identifier: Apache-2.0
"""What the plugin writes: which blocks of straight code a call executed how often."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple


class Caches(NamedTuple):
    """Two levels of cache as bytes and ways; lines of 64 bytes, least recently used goes first."""

    l1_bytes: int
    l1_ways: int
    l2_bytes: int
    l2_ways: int

    @property
    def arguments(self) -> str:
        """The same as arguments of the plugin."""
        return f"l1={self.l1_bytes}/{self.l1_ways},l2={self.l2_bytes}/{self.l2_ways}"


class Block(NamedTuple):
    """Instructions that run from the first to the last, and how often.

    Attributes
    ----------
    address : int
    function : str
        The symbol that it lies in.
    words : tuple of str
        Instruction words, 8 hexadecimal digits each.
    times : int
    """

    address: int
    function: str
    words: tuple[str, ...]
    times: int


class CallProfile(NamedTuple):
    """What one call of a kernel did.

    Attributes
    ----------
    program, call : int
        Which one.
    blocks : list of Block
        Glued where one always follows the other.
    accesses, l1_misses, l2_misses : int
        Of the data caches.
    """

    program: int
    call: int
    blocks: list[Block]
    accesses: int
    l1_misses: int
    l2_misses: int

    @property
    def instructions(self) -> int:
        """How many were executed."""
        return sum(block.times * len(block.words) for block in self.blocks)


def read_profile(text: str) -> list[CallProfile]:
    """Read the file that ``profile.c`` writes."""
    known: dict[str, Block] = {}
    calls: list[CallProfile] = []
    for line in text.splitlines():
        word, *rest = line.split()
        if word == "call":
            program, call, accesses, l1_misses, l2_misses = map(int, rest)
            calls.append(CallProfile(program, call, [], accesses, l1_misses, l2_misses))
        elif word == "block":
            known[rest[0]] = Block(int(rest[1], 16), rest[2], tuple(rest[3:]), 0)
        elif word == "count":
            calls[-1].blocks.append(known[rest[0]]._replace(times=int(rest[1])))
    return [call._replace(blocks=glued(call.blocks)) for call in calls]


def leaves(word: str) -> bool:
    """Whether an AArch64 instruction is a branch, a return or a call."""
    bits = int(word, 16)
    return any(bits & mask == value for mask, value in _BRANCHES)


# b and bl; b.cond; cbz and cbnz; tbz and tbnz; br, blr and ret.
_BRANCHES = (
    (0x7C000000, 0x14000000),
    (0xFF000000, 0x54000000),
    (0x7E000000, 0x34000000),
    (0x7E000000, 0x36000000),
    (0xFE000000, 0xD6000000),
)


def glued(blocks: list[Block]) -> list[Block]:
    """Glue blocks to those behind them: the emulator cuts long straight code into several.

    A block that does not end in a branch and the only one that begins where it ends, executed
    equally often, are one.
    """
    starts: dict[int, list[Block]] = defaultdict(list)
    for block in blocks:
        starts[block.address].append(block)
    gone: set[tuple[int, int]] = set()
    found = []
    for block in sorted(blocks, key=lambda each: (each.address, len(each.words))):
        if (block.address, len(block.words)) in gone:
            continue
        while not leaves(block.words[-1]):
            behind = starts.get(block.address + 4 * len(block.words), [])
            behind = [b for b in behind if (b.address, len(b.words)) not in gone]
            if len(behind) != 1 or behind[0].times != block.times:
                break
            gone.add((behind[0].address, len(behind[0].words)))
            block = block._replace(words=block.words + behind[0].words)
        found.append(block)
    return found

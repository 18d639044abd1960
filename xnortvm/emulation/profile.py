# SPDX-License-Identifier: Apache-2.0
"""What the plugin writes: which blocks of straight code a call executed how often."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
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
        Straight code, see `straight`.
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
    return [call._replace(blocks=straight(call.blocks)) for call in calls]


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


def straight(blocks: Iterable[Block]) -> list[Block]:
    """Let every block end at a branch, wherever the emulator cut it.

    The emulator's blocks begin where jumps lead and end at the next branch, but at the end of a
    page and of its patience, too. Such a block is continued by the one behind it, which was
    executed so often less on its own account. The result does not depend on where the linker puts
    the code.
    """
    at: dict[int, list[int]] = defaultdict(list)
    ordered = sorted(blocks, key=lambda block: (block.address, -len(block.words)))
    times = [block.times for block in ordered]
    for index, block in enumerate(ordered):
        at[block.address].append(index)
    found = []
    for index, block in enumerate(ordered):
        words, left = block.words, times[index]
        while left and not leaves(words[-1]):
            behind = at.get(block.address + 4 * len(words), [])
            behind = [each for each in behind if times[each] >= left]
            if not behind:
                break
            times[behind[0]] -= left
            words += ordered[behind[0]].words
        if left:
            found.append(block._replace(words=words, times=left))
    return found

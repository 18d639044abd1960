# SPDX-License-Identifier: Apache-2.0
"""What the plugin writes is read per call, and straight code is put together again."""

from __future__ import annotations

from xnortvm.emulation.profile import Block, leaves, read_profile, straight

ADD, BRANCH, RETURN = "0b010000", "54ffffa1", "d65f03c0"

TEXT = f"""\
call 0 0 100 7 2
block 0 4000 kernel {ADD} {ADD}
count 0 5
block 1 4008 kernel {ADD} {BRANCH}
count 1 5
call 0 1 50 0 0
count 1 9
"""


def test_every_call_has_its_own_counts() -> None:
    first, second = read_profile(TEXT)
    assert (first.program, first.call, first.instructions) == (0, 0, 20)
    assert (first.accesses, first.l1_misses, first.l2_misses) == (100, 7, 2)
    assert (second.call, second.instructions) == (1, 18)


def test_blocks_that_the_emulator_cut_are_one_again() -> None:
    first, _ = read_profile(TEXT)
    assert first.blocks == [Block(0x4000, "kernel", (ADD, ADD, ADD, BRANCH), 5)]


def test_where_the_emulator_cuts_changes_nothing() -> None:
    """A loop of three instructions that is entered from above, cut by a page or not."""
    entry, loop = (ADD, ADD, ADD, ADD, BRANCH), (ADD, ADD, BRANCH)
    whole = [Block(0x4000, "f", entry, 1), Block(0x4008, "f", loop, 9)]
    cut = [
        Block(0x4000, "f", entry[:3], 1),
        Block(0x400C, "f", entry[3:], 10),
        Block(0x4008, "f", loop[:1], 9),
    ]
    assert straight(whole) == straight(cut) == whole


def test_code_behind_a_cut_that_is_a_loop_as_well_keeps_its_own_share() -> None:
    cut = [Block(0x4000, "f", (ADD,), 2), Block(0x4004, "f", (ADD, BRANCH), 12)]
    assert straight(cut) == [
        Block(0x4000, "f", (ADD, ADD, BRANCH), 2),
        Block(0x4004, "f", (ADD, BRANCH), 10),
    ]


def test_does_not_put_together_what_a_branch_or_a_gap_parts() -> None:
    loop = Block(0x4000, "f", (ADD, BRANCH), 9)
    behind = Block(0x4008, "f", (ADD, RETURN), 9)
    far = Block(0x5000, "f", (ADD,), 9)
    assert straight([loop, behind, far]) == [loop, behind, far]


def test_branches_are_told_from_other_instructions() -> None:
    # b, bl, b.ne, cbz, tbnz, br, blr, ret
    branches = [
        "14000001",
        "94000001",
        "54000021",
        "b4000040",
        "37000040",
        "d61f0000",
        "d63f0000",
        "d65f03c0",
    ]
    assert all(leaves(word) for word in branches)
    # add, ldr q, fmla, cnt
    assert not any(leaves(word) for word in (ADD, "3dc00000", "4e22cc20", "4e205820"))

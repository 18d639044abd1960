# SPDX-License-Identifier: Apache-2.0
"""The cost of known code: what llvm-mca says of it, and what counts as a spill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xnortvm.emulation import cost, mca, needs
from xnortvm.emulation.cores import CORES, core_of
from xnortvm.emulation.profile import Block, CallProfile
from xnortvm.errors import CompileError, TargetError

XOR, POPCOUNT, ADD = "6e221c20", "4e205800", "4e238403"  # eor v0, v1, v2; cnt v0; add v3
STORE_ON_STACK, STORE_D_ON_STACK, STORE = "3d8007e0", "fd0007e0", "3d800000"


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reason = needs.missing_for_costs()
    if reason:
        pytest.skip(reason)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_words_are_disassembled_in_their_order() -> None:
    assert mca.disassemble([(XOR, POPCOUNT), (ADD,)]) == [
        ["eor v0.16b, v1.16b, v2.16b", "cnt v0.16b, v0.16b"],
        ["add v3.16b, v0.16b, v3.16b"],
    ]


def test_a_word_that_is_no_instruction_is_an_error() -> None:
    with pytest.raises(CompileError, match="llvm-mc read 1 of 2 instructions"):
        mca.disassemble([(XOR, "ffffffff")])


def test_an_unknown_core_of_llvm_is_an_error() -> None:
    with pytest.raises(CompileError, match="nonsense"):
        mca.model([["eor v0.16b, v1.16b, v2.16b"]], "nonsense")


def test_the_bound_of_a_binary_step_is_three_instructions_by_the_pipes() -> None:
    assert cost.bound("cortex-a72") == 1.5
    assert cost.bound("cortex-a53") == 3.0
    assert cost.bound("neoverse-n1") == 1.5


def test_what_was_modelled_is_kept_and_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = mca.cycles([(XOR, POPCOUNT)], "cortex-a72")
    (kept,) = needs.cache_folder().glob("mca-*-cortex-a72.json")
    assert list(json.loads(kept.read_text()).values()) == list(first.values())
    monkeypatch.setattr(mca, "model", lambda *args: pytest.fail("modelled again"))
    assert mca.cycles([(XOR, POPCOUNT)], "cortex-a72") == first
    kept.write_text("not json")
    monkeypatch.setattr(mca, "model", lambda bodies, mcpu: [7.0] * len(bodies))
    assert mca.cycles([(XOR, POPCOUNT)], "cortex-a72") == {(XOR, POPCOUNT): 7.0}


def test_long_blocks_are_modelled_quickly_and_the_same() -> None:
    bodies = [["eor v0.16b, v1.16b, v2.16b", f"ldr q{i}, [x1]"] * 40 for i in (3, 4)]
    bodies.insert(1, ["cnt v0.16b, v0.16b"])
    assert mca.model_quickly(bodies, "cortex-a72") == pytest.approx(
        mca.model(bodies, "cortex-a72"), rel=1e-3
    )


def test_the_cost_of_a_call_is_its_blocks_by_how_often_they_ran() -> None:
    loop = Block(0x4000, "k", (XOR, POPCOUNT, ADD), 1000)
    rare = Block(0x5000, "k", (XOR,), 1)
    call = CallProfile(0, 0, [rare, loop], 10, 4, 1)
    (found,) = cost.costs([call], "cortex-a72")
    assert found.instructions == 3001
    assert (found.l1_misses, found.l2_misses, found.spills) == (4, 1, 0)
    each = mca.cycles([loop.words], "cortex-a72")[loop.words]
    assert found.cycles == pytest.approx(1000 * each * 3001 / 3000)
    assert (found + found).instructions == 6002


def test_the_hottest_blocks_make_up_nearly_everything() -> None:
    hot, warm = Block(0, "k", (XOR,), 100_000), Block(4, "k", (XOR,), 200)
    cold = Block(8, "k", (XOR,), 1)
    assert cost.hottest([cold, warm, hot]) == [hot, warm]


def test_only_whole_vectors_on_the_stack_are_spills_and_each_place_counts_once() -> None:
    block = Block(0x4000, "k", (STORE_ON_STACK, STORE_D_ON_STACK, STORE), 50)
    overlapping = Block(0x4000, "k", (STORE_ON_STACK,), 3)
    assert cost.spills([block, overlapping]) == 1


def test_every_core_has_a_model_and_caches_that_divide() -> None:
    for name, core in CORES.items():
        assert cost.bound(name) > 0
        sizes = core.caches
        assert sizes.l1_bytes % (64 * sizes.l1_ways) == 0
        assert sizes.l2_bytes % (64 * sizes.l2_ways) == 0


def test_an_unknown_core_is_refused_with_the_nearest() -> None:
    with pytest.raises(TargetError, match=r"cortex-a73.*did you mean.*cortex-a72"):
        core_of("cortex-a73")

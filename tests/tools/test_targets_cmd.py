# SPDX-License-Identifier: Apache-2.0
"""``targets``: everything that ``--target`` accepts can be listed."""

from __future__ import annotations

from xnortvm.target import targets


def test_all_presets_are_listed(cli):
    ran = cli("targets")
    assert ran.status == 0
    assert all(f"\n{name} " in ran.out for name in targets())
    assert set(cli("targets", "--json").data) == set(targets())


def test_a_target_is_shown_with_what_it_resolves_to(cli):
    data = cli("targets", "llvm -mcpu=cortex-a72", "--json").data
    assert data["triple"] == "aarch64-unknown-linux-gnu"
    assert data["isa"] == "neon"
    assert "aarch64-linux-gnu" in cli("targets", "rpi4").out


def test_cpus_are_listed(cli):
    assert "cortex-a72\n" in cli("targets", "--cpus").out
    assert "cortex-a72" not in cli("targets", "--cpus", "--triple", "x86_64", "--json").data


def test_cuda_architectures_are_listed_with_what_they_have(cli):
    rows = cli("targets", "--cuda", "--json").data
    assert "wgmma_b1_and" in rows["sm_90a"]["features"]
    assert rows["sm_120"]["features"] == ["dp4a", "popc"]
    assert "Blackwell" in cli("targets", "--cuda").out

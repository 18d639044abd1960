# SPDX-License-Identifier: Apache-2.0
"""Presets and other spellings mean what they say."""

from __future__ import annotations

import pytest

from xnortvm._tvm import TvmTarget
from xnortvm.target import Target, resolve, targets


@pytest.mark.parametrize("name", list(targets()))
def test_every_preset_resolves_and_keeps_its_name(name: str):
    target = resolve(name)
    assert target.preset == name
    assert target.num_threads == 1
    assert target.tvm.kind.name == target.kind


@pytest.mark.parametrize("name", list(targets()))
def test_a_canonical_name_makes_the_same_code(name: str):
    first = resolve(name)
    second = resolve(first.name)
    assert second.name == first.name
    assert str(second.tvm) == str(first.tvm)
    assert (second.features, second.isa, second.link) == (first.features, first.isa, first.link)


def test_a_resolved_target_resolves_to_itself():
    target = resolve("rpi4", num_threads=4)
    assert resolve(target) == target
    assert resolve(target, num_threads=2).num_threads == 2
    assert resolve(target).preset == "rpi4"


def test_a_preset_with_other_features_is_no_longer_the_preset():
    assert resolve("rpi4 -num-cores=4").preset == "rpi4"
    changed = resolve("rpi5 -mattr=-dotprod")
    assert changed.preset is None
    assert "dotprod" not in changed.features


def test_an_explicit_cpu_is_not_the_host_preset_even_if_it_is_this_machine():
    assert resolve(resolve("llvm").name).preset is None


def test_spellings_of_one_target_agree():
    options = {"mcpu": "cortex-a72", "mattr": ["+crc"], "num-cores": 2}
    spellings = [
        "llvm -mcpu=cortex-a72 -mattr=+crc -num-cores=2",
        "llvm --mcpu cortex-a72 --mattr +crc --num-cores 2",
        {"kind": "llvm", **options},
        {"kind": "llvm", **options, "mattr": "+crc"},
        TvmTarget({"kind": "llvm", "mtriple": "aarch64-linux-gnu", **options}),
    ]
    resolved = [resolve(spelling) for spelling in spellings]
    assert resolved == [resolved[0]] * len(spellings)
    assert resolved[0].num_threads == 2


def test_the_argument_wins_over_num_cores():
    assert resolve("llvm -num-cores=4", num_threads=2).num_threads == 2
    assert resolve("llvm -num-cores=4").num_threads == 4
    assert int(resolve("llvm", num_threads=3).tvm.attrs["num-cores"]) == 3


def test_tags_of_tvm_are_targets():
    assert resolve("raspberry-pi/4b-aarch64").mcpu == "cortex-a72"
    assert resolve("nvidia/geforce-rtx-4090").name.startswith("cuda -arch=sm_89")
    assert resolve({"tag": "nvidia/geforce-rtx-4090"}) == resolve("nvidia/geforce-rtx-4090")


def test_targets_are_values():
    assert len({resolve("rpi4"), resolve("rpi4"), resolve("rpi5")}) == 2
    assert isinstance(resolve("rpi4"), Target)
    assert resolve("rpi4").to_json()["link"] == "aarch64-linux-gnu"

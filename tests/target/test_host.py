# SPDX-License-Identifier: Apache-2.0
"""``llvm`` is this machine, with what it really has."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from xnortvm import _cpus
from xnortvm._tvm import TvmTarget, host_cpu_features, te, tirx, tvm
from xnortvm.target import resolve

X86 = "x86_64-unknown-linux-gnu"
ARM64 = "aarch64-unknown-linux-gnu"


def test_plain_llvm_is_this_machine_with_one_thread():
    here = resolve("llvm")
    assert here.preset == "host"
    assert here.is_host
    assert here.link is None
    assert here.num_threads == 1
    assert here == resolve("host") == resolve({"kind": "llvm"}) == resolve("llvm -mcpu=native")
    assert here == resolve(TvmTarget("llvm"))


def test_code_for_this_machine_runs_on_it():
    words = te.placeholder((1024,), "uint32", name="words")
    counts = te.compute((1024,), lambda i: tirx.popcount(words[i]), name="counts")
    function = te.create_prim_func([words, counts])
    library = tvm.compile(function, target=resolve("llvm").tvm)
    given = np.arange(1024, dtype="uint32") * 2654435761
    result = tvm.runtime.tensor(np.zeros(1024, "uint32"))
    library["main"](tvm.runtime.tensor(given), result)
    assert result.numpy().tolist() == [bin(word).count("1") for word in given.tolist()]


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs /proc/cpuinfo")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags are named as x86 names them")
@pytest.mark.parametrize(
    ("llvm", "kernel"),
    [
        ("avx2", "avx2"),
        ("popcnt", "popcnt"),
        ("avx512bw", "avx512bw"),
        ("avx512vpopcntdq", "avx512_vpopcntdq"),
        ("fma", "fma"),
    ],
)
def test_features_of_this_machine_are_those_that_its_kernel_reports(llvm: str, kernel: str):
    flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    assert (llvm in resolve("llvm").features) == (kernel in flags)


def test_a_virtual_machine_without_avx512_gets_none_although_its_cpu_name_has_it(host):
    real = {"avx512f": False, "avx512vpopcntdq": False, "avx2": True}
    host(X86, "znver4", dict.fromkeys(_cpus.cpu_features(X86, "znver4"), True) | real)
    here = resolve("llvm")
    assert here.isa == "avx2"
    assert not any(name.startswith("avx512") for name in here.features)
    assert "avx512f" not in _cpus.cpu_features(
        here.triple, here.mcpu, tuple(here.tvm.attrs["mattr"])
    )
    assert not resolve("llvm -mcpu=znver4").is_host
    assert resolve("llvm -mcpu=znver3 -mattr=-sse4a").is_host


def test_features_that_a_cpu_name_lacks_are_switched_on(host):
    host(X86, "x86-64", {"avx2": True, "avx": True, "popcnt": True, "sse4.2": True})
    assert resolve("llvm").isa == "avx2"


def test_system_features_neither_change_the_name_nor_keep_code_from_running(host):
    """A virtual machine hides memory protection keys: that is nothing to a kernel."""
    real = dict.fromkeys(_cpus.cpu_features(X86, "znver3"), True) | {"pku": False, "rdpru": False}
    host(X86, "znver3", real)
    assert resolve("llvm").name == f"llvm -mtriple={X86} -mcpu=znver3"
    assert resolve("znver3").is_host


def test_features_that_are_not_mentioned_count_as_the_cpu_name_says(host):
    host(ARM64, "neoverse-v1", {"neon": True})
    assert "dotprod" in resolve("llvm").features


def test_the_cpu_reports_its_features():
    assert host_cpu_features()

# SPDX-License-Identifier: Apache-2.0
"""A CPU decides architecture, features and instruction set, on every machine."""

from __future__ import annotations

import platform

import pytest

from xnortvm._triples import link_triple, normalize_triple
from xnortvm._tvm import te, tvm
from xnortvm.target import cpus, resolve

X86 = "x86_64-unknown-linux-gnu"
ARM64 = "aarch64-unknown-linux-gnu"


@pytest.mark.parametrize(
    ("text", "triple", "isa"),
    [
        ("llvm -mcpu=cortex-a72", ARM64, "neon"),
        ("llvm -mcpu=cortex-a7", "armv7l-unknown-linux-gnueabihf", "neon32"),
        ("llvm -mcpu=apple-m1", "aarch64-apple-macos", "neon"),
        ("llvm -mcpu=znver4", X86, "avx512vpopcntdq"),
    ],
)
@pytest.mark.parametrize("machine", [(X86, "znver3"), (ARM64, "cortex-a72")])
def test_a_bare_cpu_means_its_own_architecture_on_every_machine(host, machine, text, triple, isa):
    host(*machine)
    target = resolve(text)
    assert (target.triple, target.isa) == (triple, isa)
    assert str(target.tvm.attrs["mtriple"]) == triple


ARM_CORES = [
    *("cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76", "cortex-a78", "cortex-x1"),
    *("neoverse-n1", "neoverse-v1", "apple-m1"),
]
ARM_BOARDS = {
    "rpi3": "cortex-a53",
    "rpi4": "cortex-a72",
    "rpi5": "cortex-a76",
    "jetson-orin": "cortex-a78ae",
    "pixel6": "cortex-x1",
    "graviton3": "neoverse-v1",
    "armv7": "generic",
}
#: Cores that LLVM issues one or two instructions in order for; their code suits every other core.
IN_ORDER = {"cortex-a53"}


def code_for(target: str) -> str:
    """Return LLVM's code of a small kernel."""
    words = te.placeholder((4,), "uint32", name="words")
    function = te.create_prim_func([words, te.compute((4,), lambda i: words[i] + words[i])])
    return str(tvm.compile(function, target=resolve(target).tvm).mod.inspect_source("ll"))


@pytest.mark.parametrize("core", ARM_CORES)
def test_a_bare_arm_core_makes_code_for_that_core_and_never_for_this_machine(core: str):
    code = code_for(f"llvm -mcpu={core}")
    assert 'target triple = "aarch64' in code
    assert f'"target-cpu"="{core}"' in code
    assert "x86" not in code


@pytest.mark.parametrize("board", ARM_BOARDS)
def test_a_board_is_code_for_its_core(board: str):
    target = resolve(board)
    assert target.mcpu == ARM_BOARDS[board]
    assert not target.is_host or platform.machine() != "x86_64"
    arch = "armv7l" if board == "armv7" else "aarch64"
    assert f'target triple = "{arch}' in code_for(board)
    assert target.isa == ("neon32" if board == "armv7" else "neon")
    assert "neon" in target.features


def test_features_of_arm_cores_are_derived():
    assert "dotprod" in resolve("rpi5").features
    assert "dotprod" not in resolve("rpi4").features
    assert {"sve", "i8mm", "bf16"} <= resolve("graviton3").features


@pytest.mark.parametrize("text", ["llvm -mtriple=aarch64-linux-gnu", "llvm -mtriple=aarch64"])
def test_a_core_that_is_not_named_is_scheduled_in_order(text: str):
    assert resolve(text).mcpu in IN_ORDER
    assert '"target-cpu"="cortex-a53"' in code_for(text)


def test_a_bare_triple_gets_the_cpu_that_runs_everywhere():
    assert resolve("llvm -mtriple=x86_64-linux-gnu").isa == "sse2"
    assert resolve("llvm -mtriple=aarch64-linux-gnu").mcpu == "cortex-a53"


@pytest.mark.parametrize(
    ("given", "normal", "link"),
    [
        ("aarch64-linux-gnu", ARM64, "aarch64-linux-gnu"),
        ("x86_64-conda-linux-gnu", X86, "x86_64-linux-gnu"),
        ("x86_64-pc-linux-gnu", X86, "x86_64-linux-gnu"),
        ("aarch64", ARM64, "aarch64-linux-gnu"),
        ("armv7l-linux", "armv7l-unknown-linux-gnueabihf", "arm-linux-gnueabihf"),
        ("armv7a-linux-gnueabihf", "armv7a-unknown-linux-gnueabihf", "arm-linux-gnueabihf"),
        ("aarch64-linux-android", "aarch64-unknown-linux-android", "aarch64-linux-android"),
        ("arm64-apple-darwin23", "arm64-apple-darwin23", "aarch64-apple-darwin23"),
        ("x86_64-linux-musl", "x86_64-unknown-linux-musl", "x86_64-linux-musl"),
    ],
)
def test_triples_are_completed(given: str, normal: str, link: str):
    assert normalize_triple(given) == normal
    assert link_triple(normal) == link


def test_hard_float_is_said_where_the_triple_implies_it():
    """GNU ld refuses to link objects for armhf that do not say so."""
    assert str(resolve("armv7").tvm.attrs["mfloat-abi"]) == "hard"


@pytest.mark.parametrize(
    ("text", "isa", "bits"),
    [
        ("x86-64-v2", "sse4", 128),
        ("x86-64-v3", "avx2", 256),
        ("x86-64-v4", "avx512bw", 512),
        ("llvm -mcpu=x86-64", "sse2", 128),
        ("llvm -mcpu=haswell", "avx2", 256),
        ("llvm -mcpu=skylake-avx512", "avx512bw", 512),
        ("llvm -mcpu=knl", "avx2", 256),  # AVX-512 without bytes and words
        ("llvm -mcpu=znver4 -mattr=-avx512vpopcntdq", "avx512bw", 512),
        ("llvm -mcpu=znver4 -mattr=-avx512f", "avx2", 256),
        ("llvm -mcpu=znver4 -mattr=-avx", "sse4", 128),
        ("llvm -mcpu=x86-64 -mattr=+avx2", "avx2", 256),
        ("llvm -mcpu=x86-64-v4 -mattr=+avx512vpopcntdq", "avx512vpopcntdq", 512),
        ("llvm -mtriple=i686-linux-gnu -mcpu=pentium3", "generic", 64),
        ("llvm -mtriple=armv7l-linux-gnueabihf -mattr=-neon", "generic", 64),
        ("llvm -mtriple=riscv64-linux-gnu", "generic", 64),
        ("rpi4", "neon", 128),
        ("armv7", "neon32", 128),
        ("h100", "cuda", 32),
    ],
)
def test_the_instruction_set_follows_from_the_features(text: str, isa: str, bits: int):
    target = resolve(text)
    assert (target.isa, target.vector_bits) == (isa, bits)


def test_features_are_those_of_llvm_and_hold_no_tuning_hints():
    features = resolve("llvm -mcpu=znver4").features
    assert {"avx512vpopcntdq", "avx512bw", "popcnt", "fma"} <= features
    assert not {"fast-lzcnt", "branchfusion", "pku", "64bit-mode"} & features


def test_cpus_are_listed_per_triple_and_for_all():
    assert "cortex-a72" in cpus("aarch64-linux-gnu")
    assert "cortex-a72" not in cpus("x86_64-linux-gnu")
    assert {"cortex-a72", "znver4", "cortex-a7"} <= set(cpus())

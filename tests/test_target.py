# SPDX-License-Identifier: Apache-2.0
"""Targets: every spelling means what it says, on every host, and bad ones are one sentence."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from xnortvm import _cpus
from xnortvm._triples import link_triple, normalize_triple
from xnortvm._tvm import TvmTarget, host_cpu_features, te, tirx, tvm
from xnortvm.errors import TargetError
from xnortvm.target import ARCHES, Target, cpus, resolve, targets

X86 = "x86_64-unknown-linux-gnu"
ARM64 = "aarch64-unknown-linux-gnu"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch):
    """Pretend to be another machine: ``host(triple, mcpu, features)``."""

    def pretend(triple: str, mcpu: str, real: dict[str, bool] | None = None) -> None:
        monkeypatch.setattr(_cpus, "host_triple", lambda: triple)
        corrected = _cpus.correct_host(triple, mcpu, real or {})
        monkeypatch.setattr(_cpus, "host_cpu", lambda: corrected)

    return pretend


# ---- this machine


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


# ---- a bare CPU decides the architecture


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


# ---- instruction sets


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


# ---- presets


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


# ---- other spellings


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


# ---- CUDA


@pytest.mark.parametrize(
    ("arch", "there", "absent"),
    [
        ("sm_75", {"mma_b1_xor"}, {"mma_b1_and"}),
        ("sm_80", {"mma_b1_xor", "mma_b1_and"}, {"wgmma_b1_and"}),
        ("sm_90", {"mma_b1_and"}, {"mma_b1_xor", "wgmma_b1_and"}),
        ("sm_90a", {"wgmma_b1_and"}, {"mma_b1_xor"}),
        ("sm_120", {"popc", "dp4a"}, {"mma_b1_xor", "mma_b1_and"}),
    ],
)
def test_binary_instructions_of_a_gpu_follow_its_architecture(arch, there, absent):
    features = resolve(f"cuda -arch={arch}").features
    assert there <= features
    assert not absent & features


def test_a_gpu_has_this_machine_as_host_unless_told_otherwise():
    assert resolve("cuda -arch=sm_80").mcpu == resolve("llvm").mcpu
    orin = resolve('cuda -arch=sm_87 -host="llvm -mcpu=cortex-a78ae"')
    assert orin.link == "aarch64-linux-gnu"
    assert str(orin.tvm.host.attrs["mtriple"]) == ARM64
    assert resolve(orin.name).name == orin.name
    assert str(resolve("jetson-orin-gpu").tvm) == str(orin.tvm)


def test_plain_cuda_is_the_gpu_of_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("xnortvm.target.cuda_capability", lambda: (9, 0))
    assert resolve("cuda").name == "cuda -arch=sm_90a"
    assert resolve("cuda").is_host
    assert resolve("cuda -arch=sm_90").is_host
    assert not resolve("cuda -arch=sm_80").is_host
    monkeypatch.setattr("xnortvm.target.cuda_capability", lambda: (8, 9))
    assert resolve("cuda").name == "cuda -arch=sm_89"
    assert resolve("cuda -arch=sm_86").is_host
    assert not resolve("h100").is_host


def test_without_a_gpu_plain_cuda_says_what_to_write(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("xnortvm.target.cuda_capability", lambda: None)
    with pytest.raises(TargetError, match="CUDA finds none; name one, such as"):
        resolve("cuda")
    assert not resolve("t4").is_host


def test_presets_name_architectures_of_the_table():
    gpus = [row.spec for row in targets().values() if row.spec.startswith("cuda")]
    assert gpus
    assert all(spec.split("-arch=")[1].split()[0] in ARCHES for spec in gpus)


# ---- refusals

REFUSALS = [
    ("", "empty string"),
    ("lvm", "did you mean 'llvm'"),
    ("rpi6", "did you mean 'rpi5'"),
    ("opencl", "unknown target 'opencl'; `xnortvm targets` lists"),
    ("cortex-a72", "write 'llvm -mcpu=cortex-a72'"),
    ("sm_90", "write 'cuda -arch=sm_90'"),
    ("nvidia/geforce-rtx-4091", "did you mean 'nvidia/geforce-rtx-4090'"),
    ("llvm -mcpu=cortex-a722", "did you mean 'cortex-a72'"),
    ("llvm -mcpu=znver9", "did you mean 'znver5'"),
    ("llvm -mcpu=rpi4", "pass 'rpi4' alone"),
    ("llvm -mcup=znver4", "did you mean 'mcpu'"),
    ("llvm -libs=mkl", "unknown option -libs; llvm takes -mcpu,"),
    ("llvm -mcpu", "-mcpu of the target 'llvm -mcpu' has the value ''"),
    ("llvm znver4", "holds 'znver4', which is not an option"),
    ("llvm -mcpu=znver4 -mcpu=znver3", "gives -mcpu twice"),
    ('llvm "', "cannot be read"),
    ("llvm -mcpu=cortex-a72 -mtriple=x86_64-linux-gnu", "it is a CPU of -mtriple=aarch64"),
    ("llvm -mtriple=x86-linux-gnu", "unknown architecture 'x86'"),
    ("llvm -mcpu=znver3 -mattr=+avx3", "did you mean 'avx' or 'avx2'"),
    ("llvm -mattr=avx2", "with + or - in front"),
    ("llvm -num-cores=0", "at least 1"),
    ("llvm -num-cores=two", "not a whole number"),
    ("llvm -mcpu=pentium4", "pentium4 lacks 64bit"),
    ("llvm -mcpu=cortex-m4", "microcontroller"),
    ("llvm -mcpu=x86-64 -mattr=-sse2", "lacks sse2"),
    ("rpi4 -mattr=-neon", "lacks neon"),
    ("cuda -arch=sm_91", "did you mean 'sm_90'"),
    ("cuda -arch=sm_9x", "known are sm_75"),
    ("cuda -arch=sm_70", "is too old: CUDA 13 makes code for sm_75"),
    ("cuda -arch=compute_61", "is too old"),
    ("cuda -arch=sm_80 -host=t4", "has to be a CPU"),
    ({"kind": "vulkan"}, "makes code for 'llvm' (CPUs) and 'cuda' only"),
    ({"mcpu": "znver4"}, 'has no "kind"'),
    ({"tag": "arm/rasp4c"}, "did you mean 'arm/rasp4b'"),
    ({"kind": "llvm", "mcpu": 3}, "has the value 3"),
    ({"kind": "llvm", "mattr": 5}, "has the value 5"),
    (7, "not int"),
    (TvmTarget("opencl"), "makes code for 'llvm' (CPUs) and 'cuda' only"),
]


@pytest.mark.parametrize(("target", "reason"), REFUSALS, ids=[str(row[0]) for row in REFUSALS])
def test_a_bad_target_is_refused_in_one_sentence(target, reason: str):
    with pytest.raises(TargetError) as caught:
        resolve(target)
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("count", [0, -1, True, "2", 1.5])
def test_a_bad_thread_count_is_refused(count):
    with pytest.raises(TargetError, match="whole number of at least 1"):
        resolve("llvm", num_threads=count)


def test_cpus_are_listed_per_triple_and_for_all():
    assert "cortex-a72" in cpus("aarch64-linux-gnu")
    assert "cortex-a72" not in cpus("x86_64-linux-gnu")
    assert {"cortex-a72", "znver4", "cortex-a7"} <= set(cpus())


def test_the_cpu_reports_its_features():
    assert host_cpu_features()

# SPDX-License-Identifier: Apache-2.0
"""Targets of GPUs follow from the architecture."""

from __future__ import annotations

import pytest

from xnortvm.errors import TargetError
from xnortvm.target import ARCHES, resolve, targets

ARM64 = "aarch64-unknown-linux-gnu"


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

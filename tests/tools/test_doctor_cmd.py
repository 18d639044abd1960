# SPDX-License-Identifier: Apache-2.0
"""``doctor``: says what is wrong, and ends with 1 when something is."""

from __future__ import annotations

import argparse
from dataclasses import replace

import pytest

from xnortvm import _tvm
from xnortvm import target as target_module
from xnortvm.errors import MissingDependencyError, VersionError
from xnortvm.tools import doctor_cmd
from xnortvm.tools.doctor_cmd import FAILURE, NOTE, OK, WARNING, Finding


def findings(check: str, **arguments: str) -> list[Finding]:
    return list(doctor_cmd.CHECKS[check](argparse.Namespace(**arguments)))


def test_a_machine_that_passes_the_tests_is_healthy(cli):
    ran = cli("doctor", "--json")
    assert ran.status == 0
    assert ran.data["healthy"] is True
    seen = {finding["what"] for finding in ran.data["findings"]}
    assert {"apache-tvm", "apache-tvm-ffi", "instruction set", "threads", "kernel"} <= seen


def test_the_text_ends_with_a_verdict(cli):
    assert cli("doctor").out.splitlines()[-1].startswith("Everything needed works: 0 failures")


def test_a_check_that_breaks_is_a_failure_and_the_others_go_on(cli, monkeypatch):
    def broken(_: argparse.Namespace) -> list[Finding]:
        raise RuntimeError("out of magic")

    monkeypatch.setitem(doctor_cmd.CHECKS, "GPU", broken)
    ran = cli("doctor")
    assert ran.status == 1
    assert "RuntimeError: out of magic" in ran.out
    assert "xor-popcount compiled" in ran.out


def test_a_wrong_version_is_a_failure_that_names_the_fix(cli, monkeypatch):
    def refuse(_: argparse.Namespace) -> list[Finding]:
        raise VersionError('apache-tvm-ffi 0.1.15 is installed; run: pip install "…"')

    for what in ("packages", "instruction set", "GPU", "kernel"):
        monkeypatch.setitem(doctor_cmd.CHECKS, what, refuse)
    ran = cli("doctor")
    assert ran.status == 1
    assert ran.out.count("0.1.15 is installed; run: pip install") == 1


def test_a_missing_compiler_is_a_failure(cli, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    ran = cli("doctor", "--json")
    assert ran.status == 1
    (compiler,) = [each for each in ran.data["findings"] if each["what"] == "C compiler"]
    assert compiler["status"] == FAILURE


def test_missing_optional_packages_are_notes_with_the_command(monkeypatch):
    monkeypatch.setattr(_tvm, "installed_version", lambda _: None)
    (torch,) = [each for each in findings("packages") if each.what == "torch"]
    assert torch.status == NOTE
    assert 'pip install "xnortvm[torch]"' in torch.detail


@pytest.mark.parametrize(
    ("target", "advice"),
    [
        ("llvm -mcpu=x86-64", "no AVX2"),
        ("llvm -mcpu=x86-64", "no POPCNT"),
        ("x86-64-v2", "no AVX2"),
        ("armv7", "32-bit ARM"),
        ("llvm -mtriple=riscv64-linux-gnu", "no vector unit"),
    ],
)
def test_slow_instruction_sets_are_warned_about(target: str, advice: str):
    warnings = findings("instruction set", target=target)
    assert any(each.status == WARNING and advice in each.detail for each in warnings)


@pytest.mark.parametrize("target", ["x86-64-v3", "znver4", "rpi4", "h100"])
def test_good_instruction_sets_are_not_warned_about(target: str):
    assert not [e for e in findings("instruction set", target=target) if e.status == WARNING]


def test_the_features_in_use_are_named():
    details = " ".join(each.detail for each in findings("instruction set", target="znver4"))
    assert "avx512vpopcntdq" in details


def test_thirty_two_bits_and_debug_builds_are_warned_about(monkeypatch):
    monkeypatch.setattr(doctor_cmd.struct, "calcsize", lambda _: 4)
    monkeypatch.setattr(doctor_cmd.sys, "gettotalrefcount", lambda: 0, raising=False)
    details = [each.detail for each in findings("Python") if each.status == WARNING]
    assert any("32-bit" in detail for detail in details)
    assert any("debug build" in detail for detail in details)


def test_thread_limits_of_the_environment_are_named(monkeypatch):
    monkeypatch.setenv("TVM_NUM_THREADS", "3")
    assert any("TVM_NUM_THREADS=3" in each.detail for each in findings("threads"))


def test_a_kernel_with_wrong_results_is_a_failure(monkeypatch):
    """A CPU whose features are misdetected computes nonsense or dies."""
    monkeypatch.setattr(_tvm.tirx, "popcount", lambda word: word)
    (kernel,) = findings("kernel")
    assert kernel.status == FAILURE
    assert "wrong results" in kernel.detail


def test_the_kernel_is_compiled_for_this_machine(monkeypatch):
    here = target_module.resolve("llvm")
    monkeypatch.setattr(target_module, "resolve", lambda _: replace(here, mcpu="seen"))
    (kernel,) = findings("kernel")
    assert kernel.status == OK
    assert "compiled for seen" in kernel.detail


def test_what_models_of_arm_cores_lack_is_a_note_with_the_command(monkeypatch):
    from xnortvm.emulation import needs

    lacking = "qemu-aarch64 is not installed; install it (Debian, Ubuntu: sudo apt install …)"
    monkeypatch.setattr(needs, "missing_for_costs", lambda: lacking)
    (finding,) = findings("models of ARM cores")
    assert (finding.status, finding.detail) == (NOTE, lacking)


def test_the_programs_that_model_arm_cores_are_named(monkeypatch):
    from xnortvm.emulation import needs

    monkeypatch.setattr(needs, "missing_for_costs", lambda: None)
    monkeypatch.setattr(needs, "qemu_version", lambda: "qemu 7.2")
    monkeypatch.setattr(needs, "find_models", lambda: needs.Models("mca", "mc", "19.1.7"))
    (finding,) = findings("models of ARM cores")
    assert (finding.status, finding.detail) == (OK, "qemu 7.2, llvm-mca 19.1.7")


def test_what_cuda_needs_is_looked_for(monkeypatch: pytest.MonkeyPatch):
    from xnortvm.runtime import cuda_compiler, cuda_driver

    def lacking():
        raise MissingDependencyError("no nvcc here")

    monkeypatch.setattr(cuda_compiler, "find_cuda_compiler", lacking)
    monkeypatch.setattr(cuda_driver, "has_driver", lambda: False)
    compiler, gpu = findings("GPU")
    assert compiler.detail == "no nvcc here"
    assert "no NVIDIA driver: models compile for CUDA here" in gpu.detail

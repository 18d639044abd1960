# SPDX-License-Identifier: Apache-2.0
"""Instruction counts: what is read from assembly, and that a regression is found and named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from xnortvm.target import resolve
from xnortvm.tools import bench_check, object_code
from xnortvm.tools.bench_check import Difference
from xnortvm.tools.layer_modules import Layer
from xnortvm.tools.object_code import Counts

X86 = """
__tvm_ffi_k:
	jmp	.LBB0_1
k_compute_:
	pushq	%rbp
.LBB1_1:
	leaq	(%r13,%rcx), %rax
.LBB1_2:
	vmovdqa64	(%r15), %zmm16
	vpxord	-88(%rax,%rbp){1to16}, %zmm16, %zmm20
	vpopcntd	%zmm20, %zmm20  # a comment with %ymm1
	vpaddd	64(%rsp), %zmm20, %zmm15
	cmpq	$136, %rbp
	jne	.LBB1_2
	incq	%rdi
	cmpq	$3, %rdi
	jne	.LBB1_1
	retq
"""
AARCH64 = """
k_compute_:
	mov	x0, #0
.LBB0_1:
	ldr	q1, [sp, #16]
	eor	v0.16b, v1.16b, v2.16b
	cnt	v0.16b, v0.16b
	add	v3.16b, v0.16b, v3.16b
	subs	x0, x0, #1
	b.ne	.LBB0_1
	ret
"""


def test_loops_are_found_and_the_one_that_works_is_counted() -> None:
    assert object_code.count(X86, "binary") == Counts(
        work=512, working=6, spills=1, around=4, size=12
    )
    assert object_code.count(X86, "binary").cost == 12.0


def test_aarch64_is_read_as_well() -> None:
    assert object_code.count(AARCH64, "binary") == Counts(
        work=128, working=6, spills=1, around=0, size=8
    )


@pytest.mark.parametrize(
    ("instruction", "kind", "work"),
    [
        ("vpopcntd %zmm1, %zmm2", "binary", 512),
        ("vpshufb %ymm1, %ymm2, %ymm3", "binary", 128),
        ("cnt v0.16b, v0.16b", "binary", 128),
        ("vfmadd231ps (%rax), %zmm2, %zmm3", "float", 16),
        ("fmla v0.4s, v1.4s, v2.s[0]", "float", 4),
        ("vmaxps %ymm1, %ymm2, %ymm3", "pool", 8),
        ("vmovmskps %ymm0, %eax", "pack", 8),
        ("vaddps %ymm1, %ymm2, %ymm3", "float", 0),
        ("popcntq %rax, %rbx", "binary", 0),
    ],
)
def test_work_is_counted_by_what_an_instruction_computes(
    instruction: str, kind: str, work: int
) -> None:
    mnemonic, _, operands = instruction.partition(" ")
    assert object_code._work(object_code.Instruction(mnemonic, operands), kind) == work


BASE = Counts(work=1024, working=100, spills=0, around=300, size=500)


@pytest.mark.parametrize(
    ("now", "figure", "worse"),
    [
        (replace(BASE, working=110), "cost", True),
        (replace(BASE, working=90), "cost", False),
        (replace(BASE, spills=3), "spills", True),
        (replace(BASE, around=340), "around", True),
    ],
)
def test_a_change_beyond_the_margin_is_named(now: Counts, figure: str, worse: bool) -> None:
    (found,) = bench_check.compare({"k": BASE}, {"k": now})
    before, after = getattr(BASE, figure), getattr(now, figure)
    assert found == Difference("k", figure, before, after, worse)


@pytest.mark.parametrize(
    "now", [BASE, replace(BASE, working=101), replace(BASE, spills=2), replace(BASE, around=315)]
)
def test_a_change_within_the_margin_is_none(now: Counts) -> None:
    assert not bench_check.compare({"k": BASE}, {"k": now})


SMALL = {"3×3": ("binary", bench_check._binary(Layer(3, 64, 6, 32, 1)))}


@pytest.mark.parametrize("isa", bench_check.CPUS)
def test_every_instruction_set_is_counted_on_any_machine(isa: str) -> None:
    (counts,) = bench_check.measure(SMALL, {isa: bench_check.CPUS[isa]}).values()
    assert counts.work > 0
    assert 3 < counts.cost < 200
    assert counts.size > counts.working


def test_a_made_up_regression_fails_and_recording_it_passes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "counts.json"
    now = {"k": replace(BASE, working=120)}
    monkeypatch.setattr(bench_check, "RECORD", record)
    monkeypatch.setattr(bench_check, "measure", lambda: now)
    monkeypatch.setattr(bench_check, "_costs", lambda args: 0)
    bench_check.write({"k": BASE})
    assert bench_check.main([]) == 1
    shown = capsys.readouterr().out
    assert "instructions for 1024 MACs" in shown
    assert "worse, +20.0%" in shown
    assert "1 figures got worse" in shown
    assert bench_check.main(["--record"]) == 0
    assert bench_check.main([]) == 0


def test_the_record_is_complete() -> None:
    names = {
        f"{isa} · {name}"
        for isa, cpu in bench_check.CPUS.items()
        for name in bench_check.KERNELS
        if bench_check.NEEDS.get(name, frozenset()) <= resolve(cpu).features
    }
    assert set(bench_check.read()) == names


@pytest.mark.parametrize(
    ("register", "frame", "spills"),
    [("sp", "", 1), ("x29", "\tmov\tx29, sp\n", 1), ("x29", "", 0)],
)
def test_x29_is_the_stack_only_where_it_points_there(
    register: str, frame: str, spills: int
) -> None:
    body = f".L1:\n\tldr\tq0, [{register}, #16]\n\tcnt\tv0.16b, v0.16b\n\tb.ne\t.L1\n\tret\n"
    assert object_code.count(f"f_compute_:\n{frame}{body}", "binary").spills == spills

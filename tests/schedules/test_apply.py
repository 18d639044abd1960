# SPDX-License-Identifier: Apache-2.0
"""`ApplySchedules` schedules every kernel once, by the rule of its anchor."""

from __future__ import annotations

import re

import pytest
import tvm

from tests.ops.kernel_cases import Conv, bconv2d_case, build, conv2d_case, dense_case, scheduled
from xnortvm.schedules import ApplySchedules, schedule_function
from xnortvm.schedules.isa import ISAS
from xnortvm.target import resolve

ZNVER4 = {"kind": "llvm", "mcpu": "znver4", "mtriple": "x86_64-linux-gnu"}


def module_of(*cases):
    return tvm.ir.IRModule({f"f{i}": case.func for i, case in enumerate(cases)})


def test_each_kernel_gets_the_rule_of_its_anchor() -> None:
    target = resolve("llvm -mcpu=haswell")
    isa = ISAS[target.isa]
    cases = [bconv2d_case(Conv(), isa), conv2d_case(Conv(), isa), dense_case((1,), 8, 16, isa)]
    mod = ApplySchedules(target)(module_of(*cases))
    rules = [str(mod[f"f{i}"].attrs["xnortvm.schedule"]) for i in range(3)]
    assert rules == ["bconv2d.avx2", "conv2d.avx2", "dense.avx2"]


def test_a_kernel_without_anchor_gets_the_default_rule() -> None:
    x = tvm.te.placeholder((4, 64), "float32")
    y = tvm.te.compute((4, 64), lambda i, j: x[i, j] + 1.0)
    func = tvm.te.create_prim_func([x, y])
    done = schedule_function(func, ISAS["avx2"])
    assert str(done.attrs["xnortvm.schedule"]) == "default.avx2"


def test_a_kernel_that_is_not_made_of_blocks_keeps_its_loops_on_one_thread() -> None:
    shape = (tvm.tirx.const(4, "int64"), tvm.tirx.const(8, "int64"))
    x, indices = tvm.te.placeholder(shape, "float32"), tvm.te.placeholder(shape, "int64")
    y = tvm.topi.scatter_elements(x, indices, x, axis=1)
    func = tvm.te.create_prim_func([x, indices, y])
    assert "T.parallel" in func.script()
    done = schedule_function(func, ISAS["avx2"], 2)
    assert str(done.attrs["xnortvm.schedule"]) == "none"
    assert "T.parallel" not in done.script()


def test_does_not_schedule_a_kernel_twice() -> None:
    target = resolve("llvm -mcpu=haswell")
    once = ApplySchedules(target)(module_of(bconv2d_case(Conv(), ISAS[target.isa])))
    tvm.ir.assert_structural_equal(ApplySchedules(target)(once), once)


def test_one_thread_has_no_parallel_loop() -> None:
    func = bconv2d_case(Conv(), ISAS["avx2"]).func
    assert "T.parallel" not in schedule_function(func, ISAS["avx2"], 1).script()
    assert "T.parallel" in schedule_function(func, ISAS["avx2"], 2).script()


def inner_loops(assembly: str, mnemonic: str) -> list[str]:
    """Return the innermost loops that hold several of an instruction."""
    lines = assembly.splitlines()
    at = {line[:-1]: i for i, line in enumerate(lines) if re.fullmatch(r"\.LBB\w+:", line)}
    found = []
    for i, line in enumerate(lines):
        jump = re.fullmatch(r"\s+j\w+\s+(\.LBB\w+)", line)
        if jump and at.get(jump.group(1), i) < i:
            body = "\n".join(lines[at[jump.group(1)] : i + 1])
            if body.count(mnemonic) >= 4:
                found.append(body)
    return sorted(found, key=len)[:1]


@pytest.mark.parametrize("size", [56, 14, 7, 13])
def test_packed_avx512_loops_neither_spill_nor_call(size: int) -> None:
    isa = ISAS["avx512vpopcntdq"]
    case = bconv2d_case(Conv(64, 64, (size, size)), isa)
    (done,) = scheduled([case], lambda func: schedule_function(func, isa))
    (loop,) = inner_loops(build([done], ZNVER4).mod.inspect_source("asm"), "vpopcntd")
    assert "(%rsp" not in loop
    assert "call" not in loop
    assert loop.count("vpopcntd") == loop.count("vpxor") == loop.count("vpaddd")


@pytest.mark.parametrize("name", ["avx2", "avx512vpopcntdq"])
def test_the_float_stem_neither_spills_nor_calls(name: str) -> None:
    isa = ISAS[name]
    case = conv2d_case(Conv(3, 64, (16, 16), (7, 7), (2, 2), (3, 3, 3, 3)), isa)
    (done,) = scheduled([case], lambda func: schedule_function(func, isa))
    (loop,) = inner_loops(build([done], ZNVER4).mod.inspect_source("asm"), "vfmadd")
    assert "(%rsp" not in loop
    assert "call" not in loop

# SPDX-License-Identifier: Apache-2.0
"""Programs run in an emulated process, and whatever goes wrong there has a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xnortvm._tvm import ir, te, tirx
from xnortvm.emulation import needs, network, run
from xnortvm.emulation.cores import core_of
from xnortvm.emulation.program import INPUT, OUTPUT, Program
from xnortvm.emulation.run import Ran, emulate
from xnortvm.errors import CompileError, MissingDependencyError
from xnortvm.target import resolve

CPUS = {"aarch64": "rpi4", "armv7": "armv7"}
X = np.arange(16, dtype=np.float32)


def _need(preset: str) -> Any:
    target = resolve(preset)
    reason = needs.missing(target.link)
    if reason:
        pytest.skip(reason)
    return target


def _function(name: str, body: Any) -> Any:
    a = te.placeholder(X.shape, "float32", name="a")
    return te.create_prim_func([a, body(a)]).with_attr("global_symbol", name)


def _double() -> Any:
    return _function("double", lambda a: te.compute(a.shape, lambda i: a[i] * 2, name="twice"))


def _program(kernel: str, output: np.ndarray = X) -> Program:
    program = Program(kernel)
    slots = [program.add(INPUT, X), program.add(OUTPUT, np.zeros_like(output))]
    program.calls.append((kernel, slots))
    return program


def _beside(at: int) -> Any:
    def body(a: Any) -> Any:
        def write(_: Any, outs: Any) -> Any:
            # In a loop, so that nothing knows the address.
            i = tirx.Var("i", "int32")
            store = tirx.BufferStore(outs[0], tirx.const(1.0, "float32"), [i + at])
            return tirx.For(i, 0, 4, tirx.ForKind.SERIAL, store)

        return te.extern([X.shape], [a], write, dtype="float32")

    return body


@pytest.mark.parametrize("preset", CPUS.values(), ids=CPUS)
def test_outputs_come_back_and_views_share_data(preset: str) -> None:
    target = _need(preset)
    program = _program("double")
    view = program.add(OUTPUT, np.zeros((16,), np.float32), view_of=1)
    program.calls.append(("double", [view, program.add(OUTPUT, np.zeros_like(X))]))
    (ran,) = emulate([program], network.library({"double": _double()}, target), target)
    assert ran.complaint == ""
    assert sorted(ran.outputs) == [1, 3]
    np.testing.assert_array_equal(ran.outputs[1], 2 * X)
    np.testing.assert_array_equal(ran.outputs[3], 4 * X)


@pytest.mark.parametrize("preset", CPUS.values(), ids=CPUS)
def test_what_goes_wrong_is_named_and_the_next_program_runs(preset: str) -> None:
    target = _need(preset)
    functions = {
        "double": _double(),
        "near": _function("near", _beside(16)),
        "far": _function("far", _beside(5000)),
    }
    wrong_shape = _program("double", np.zeros(15, np.float32))
    programs = [wrong_shape, _program("near"), _program("far"), _program("double")]
    error, stray, fault, right = emulate(programs, network.library(functions, target), target)
    assert error.complaint.startswith("double returned an error: ")
    assert stray.complaint in (
        "something was written beside argument 1 of near",
        "access beside an array in near (address 0)",
    ) or stray.complaint.startswith("access beside an array in near")
    assert fault.complaint.startswith("access beside an array in far (address 0x")
    assert (right.complaint, error.outputs) == ("", {})
    np.testing.assert_array_equal(right.outputs[1], 2 * X)


def test_a_profile_counts_each_call_and_is_the_same_every_time() -> None:
    target, caches = _need("rpi4"), core_of("cortex-a72").caches
    program = _program("double")
    program.calls.append(("double", [0, program.add(OUTPUT, np.zeros_like(X))]))
    library = network.library({"double": _double()}, target)
    first, again = (emulate([program], library, target, caches=caches)[0] for _ in range(2))
    assert [profile.call for profile in first.profiles] == [0, 1]
    assert first.profiles == again.profiles
    assert 10 < first.profiles[0].instructions < 500
    assert first.profiles[0].accesses >= 8
    assert any("double" in block.function for block in first.profiles[0].blocks)


def test_misses_are_those_of_the_cache_that_was_asked_for() -> None:
    """128 KiB are read: they fit the second cache and not the first, and not a small second one."""
    target = _need("rpi4")
    big = np.zeros(1 << 15, np.float32)
    a = te.placeholder(big.shape, "float32", name="a")
    k = te.reduce_axis((0, big.size), name="k")
    total = te.compute((1,), lambda _: te.sum(a[k], axis=k), name="total")
    func = te.create_prim_func([a, total]).with_attr("global_symbol", "sum")
    program = Program("sum")
    slots = [program.add(INPUT, big), program.add(OUTPUT, np.zeros(1, np.float32))]
    program.calls.append(("sum", slots))
    library = network.library({"sum": func}, target)
    caches = core_of("cortex-a72").caches
    for wanted, each in ((0, caches), (2048, caches._replace(l2_bytes=64 << 10))):
        (ran,) = emulate([program], library, target, caches=each)
        (profile,) = ran.profiles
        assert 2048 <= profile.l1_misses <= 2060
        assert wanted <= profile.l2_misses <= wanted + 12


def test_an_emulator_that_does_not_run_anything_is_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = _need("rpi4")
    broken = tmp_path / "qemu"
    broken.write_text("#!/bin/sh\necho 'no plugins here' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(run.needs, "find_qemu", lambda machine: str(broken))
    library = network.library({"double": _double()}, target)
    with pytest.raises(CompileError, match="ran nothing: no plugins here"):
        emulate([_program("double")], library, target)


def test_code_for_this_machine_is_not_emulated() -> None:
    target = resolve("llvm -mcpu=x86-64-v3")
    with pytest.raises(MissingDependencyError, match="cannot be emulated"):
        emulate([], None, target)


def test_a_program_that_never_came_to_its_end_says_so() -> None:
    assert Ran().complaint == "did not finish"


def test_kernels_of_a_library_are_called_by_name() -> None:
    mod = ir.IRModule({"double": _double()})
    assert list(network.kernels(mod, "p_")) == ["p_double"]

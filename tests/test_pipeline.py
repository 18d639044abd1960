# SPDX-License-Identifier: Apache-2.0
"""The order of the phases, what they leave behind for people, and TVM's own way to call them."""

from __future__ import annotations

import numpy as np
import pytest

from xnortvm import pipeline
from xnortvm._tvm import IRModule, relax, runtime, tvm
from xnortvm.errors import CompileError, TargetError
from xnortvm.patterns import ZeroPolicy
from xnortvm.report import Report
from xnortvm.target import resolve


def binary_dense() -> IRModule:
    """where(x >= 0, 1, -1) times ±1 weights, plus a bias."""
    random = np.random.default_rng(0)
    weights = np.where(random.random((40, 8)) < 0.5, -1.0, 1.0).astype("float32")
    bias = random.standard_normal(8).astype("float32")
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 40), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            zero, one = (relax.const(np.float32(value)) for value in (0, 1))
            positive = builder.emit(relax.op.greater_equal(x, zero))
            signs = builder.emit(relax.op.where(positive, one, relax.const(np.float32(-1))))
            product = builder.emit(relax.op.matmul(signs, relax.const(weights)))
            output = builder.emit_output(relax.op.add(product, relax.const(bias)))
        builder.emit_func_output(output)
    return builder.get()


def expected(x: np.ndarray) -> np.ndarray:
    """What `binary_dense` computes, by TVM's default pipeline."""
    vm = relax.VirtualMachine(relax.build(binary_dense(), "llvm"), tvm.cpu())
    return np.asarray(vm["main"](runtime.tensor(x)).numpy())


def test_relax_build_takes_the_pipeline_by_name_for_its_own_target() -> None:
    x = np.random.default_rng(1).standard_normal((2, 40)).astype("float32")
    executable = relax.build(binary_dense(), resolve("llvm").tvm, relax_pipeline="xnortvm")
    actual = relax.VirtualMachine(executable, tvm.cpu())["main"](runtime.tensor(x)).numpy()
    np.testing.assert_allclose(actual, expected(x), atol=1e-5)


def test_does_not_guess_the_vectors_of_a_target_without_a_cpu() -> None:
    with pytest.raises(RuntimeError, match="does not name a CPU"):
        relax.build(binary_dense(), "llvm", relax_pipeline="xnortvm")


def test_one_file_is_dumped_after_each_phase_and_shows_the_packed_operators(tmp_path) -> None:
    graph = pipeline.graph_phases(Report(), ZeroPolicy())
    mod = pipeline.run(binary_dense(), graph, tmp_path)
    pipeline.run(mod, pipeline.kernel_phases(resolve("llvm")), tmp_path)
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == [
        "01_normalise.py",
        "02_lower.py",
        "03_fuse.py",
        "04_kernels.py",
        "05_schedule.py",
    ]
    assert "xnortvm.sign" in (tmp_path / names[0]).read_text()
    assert "xnortvm.bdense" in (tmp_path / names[1]).read_text()
    assert "T.prim_func" in (tmp_path / names[3]).read_text()


def test_a_pass_that_fails_is_named_in_one_sentence() -> None:
    def broken(mod: IRModule) -> IRModule:
        raise RuntimeError("first line\nlast line")

    with pytest.raises(CompileError, match=r"failed in fuse \(broken\): last line; .*dump_dir"):
        pipeline.run(binary_dense(), [pipeline.Phase("fuse", [broken])])


def test_does_not_hide_errors_that_say_what_to_do() -> None:
    def refusing(mod: IRModule) -> IRModule:
        raise TargetError("say what to do")

    with pytest.raises(TargetError, match=r"^say what to do$"):
        pipeline.run(binary_dense(), [pipeline.Phase("fuse", [refusing])])


def test_does_not_change_the_module_that_it_is_given() -> None:
    mod = binary_dense()
    before = mod.script()
    pipeline.run(mod, pipeline.graph_phases(Report(), ZeroPolicy()))
    assert mod.script() == before


def test_every_kernel_of_a_network_is_scheduled() -> None:
    mod = pipeline.run(binary_dense(), pipeline.graph_phases(Report(), ZeroPolicy()))
    mod = pipeline.run(mod, pipeline.kernel_phases(resolve("llvm")))
    kernels = [mod[gvar] for gvar in mod.get_global_vars() if str(gvar.name_hint) != "main"]
    assert kernels
    assert all("xnortvm.schedule" in kernel.attrs for kernel in kernels)

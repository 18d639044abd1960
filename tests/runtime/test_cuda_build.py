# SPDX-License-Identifier: Apache-2.0
"""CUDA libraries are made without a GPU, hold machine code, and say what they lack to run."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm_ffi

import xnortvm
from xnortvm._cuda_archs import ARCHES
from xnortvm.errors import CompileError, MissingDependencyError, TargetError
from xnortvm.runtime import cuda_compiler, cuda_driver, host
from xnortvm.schedules.cuda.dispatch import FAMILIES

try:
    cuda_compiler.find_cuda_compiler()
    LACKING = ""
except MissingDependencyError as error:
    LACKING = str(error)

needs_compiler = pytest.mark.skipif(bool(LACKING), reason=LACKING or "-")
without_driver = pytest.mark.skipif(cuda_driver.has_driver(), reason="this machine has a driver")


class Net(torch.nn.Module):
    """A binary layer whose sign is packed, and one that returns floats."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(32, 40, 3, padding=1, bias=False)
        self.last = torch.nn.Conv2d(40, 8, 1, bias=False)

    def forward(self, x):
        for layer in (self.first, self.last):
            signs = torch.where(x >= 0, 1.0, -1.0)
            weight = layer.weight.sign()
            x = torch.nn.functional.conv2d(signs, weight, padding=layer.padding)
        return x


def compile_net(target: str, **options) -> xnortvm.runtime.module.CompiledModel:
    torch.manual_seed(0)
    x = torch.zeros(1, 32, 4, 4)
    return xnortvm.compile(Net(), target=target, example_inputs=x, **options)


@pytest.fixture(scope="module")
def compiled():
    return compile_net("h100")


@needs_compiler
@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90a", "sm_120"])
def test_a_library_holds_machine_code_and_no_source(arch: str) -> None:
    library = compile_net(f"cuda -arch={arch}").library
    assert b"nv.info" in library
    assert b"__popc" not in library


@needs_compiler
def test_the_report_names_the_family_of_each_kernel(compiled) -> None:
    families = [row.schedule.partition(".") for row in compiled.report.layers]
    assert [arch for _, _, arch in families] == ["sm_90a", "sm_90a"]
    assert all(name in {family.name for family in FAMILIES} for name, _, _ in families)


@needs_compiler
@without_driver
def test_without_a_driver_a_model_is_saved_but_not_run(compiled, tmp_path: Path) -> None:
    file = compiled.save(tmp_path / "net.xnor")
    with pytest.raises(
        TargetError, match="compiled for cuda -arch=sm_90a, and this machine has no"
    ):
        compiled(np.zeros((1, 32, 4, 4), np.float32))
    with pytest.raises(
        TargetError, match=r"net\.xnor was compiled for cuda -arch=sm_90a, and this"
    ):
        xnortvm.load(file)


@needs_compiler
def test_a_folder_for_c_programs_is_for_cpus(compiled, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="run on a CPU, and the model was compiled for cuda"):
        compiled.save_folder(tmp_path / "net")


def test_another_gpu_is_told_from_the_one_that_was_compiled_for(monkeypatch) -> None:
    monkeypatch.setattr(cuda_driver, "load_for_running", lambda what: None)
    monkeypatch.setattr(cuda_driver, "capability", lambda: (8, 6))
    host.check_gpu(host.Machine("x86_64-unknown-linux-gnu", (), "sm_80"), "m was made")
    with pytest.raises(TargetError, match=r"is sm_86, which does not run code for sm_90a; compile"):
        host.check_gpu(host.Machine("x86_64-unknown-linux-gnu", (), "sm_90a"), "m was made")


def test_a_driver_without_a_gpu_is_named(monkeypatch) -> None:
    monkeypatch.setattr(cuda_driver, "has_driver", lambda: True)
    monkeypatch.setattr(cuda_driver, "_load", lambda: None)
    if cuda_driver.tvm.cuda(0).exist:
        pytest.skip("this machine has a GPU")
    with pytest.raises(TargetError, match="m was made, and the NVIDIA driver finds no GPU"):
        cuda_driver.load_for_running("m was made")


def test_neither_nvcc_nor_nvrtc_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setattr(cuda_compiler.shutil, "which", lambda name: None)
    monkeypatch.setattr(cuda_compiler.nvrtc, "find", lambda: None)
    monkeypatch.delenv("CUDACXX", raising=False)
    sentence = r"needs nvcc or NVRTC, but no GPU.*or run: pip install 'xnortvm\[cuda\]'"
    with pytest.raises(MissingDependencyError, match=sentence):
        cuda_compiler.find_cuda_compiler()
    monkeypatch.setenv("CUDACXX", "/nowhere/nvcc")
    with pytest.raises(MissingDependencyError, match="CUDACXX names '/nowhere/nvcc'"):
        cuda_compiler.find_cuda_compiler()


@needs_compiler
def test_source_that_does_not_compile_is_one_sentence() -> None:
    sentence = "nvcc could not compile the kernels for sm_80: .*error"
    with pytest.raises(CompileError, match=sentence), cuda_compiler.compiling_for("sm_80"):
        tvm_ffi.get_global_func("tvm_callback_cuda_compile")("void f() { this is no C }")


def test_tvms_own_compiler_is_back_afterwards() -> None:
    before = tvm_ffi.get_global_func("tvm_callback_cuda_compile")
    try:
        with cuda_compiler.compiling_for("sm_80"):
            assert tvm_ffi.get_global_func("tvm_callback_cuda_compile") != before
    except MissingDependencyError:
        pytest.skip(LACKING)
    with pytest.raises(Exception):  # noqa: B017 - whatever TVM's compiler says of no source
        tvm_ffi.get_global_func("tvm_callback_cuda_compile")("")


def test_the_stand_in_for_the_driver_knows_no_device(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = cuda_driver._stand_in()
    assert library.is_relative_to(tmp_path)
    assert ctypes.CDLL(str(library)).cuModuleLoadData() == 100
    assert cuda_driver._stand_in() == library


@needs_compiler
def test_launches_are_recorded_as_graphs_where_asked(compiled) -> None:
    assert b"cuda_graph.run_or_capture" in compile_net("t4", cuda_graph=True).library
    assert b"cuda_graph.run_or_capture" not in compiled.library


def test_graphs_of_launches_are_for_gpus() -> None:
    with pytest.raises(TargetError, match="cuda_graph=True is for GPUs and llvm"):
        compile_net("llvm", cuda_graph=True)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("InternalError: CUDA: out of memory", "too little free memory for the model compiled for"),
        ("CUDA: no kernel image is available", "the GPU does not run code for h100; compile"),
        (
            "a\nCUDA: an illegal address",
            "ran the model compiled for h100: CUDA: an illegal address",
        ),
    ],
)
def test_what_a_gpu_could_not_do_is_one_sentence(said: str, sentence: str) -> None:
    assert sentence in cuda_driver.device_failure(said, "h100")


def test_every_architecture_of_the_table_counts_bits() -> None:
    assert all({"popc", "dp4a"} <= arch.features for arch in ARCHES.values())

# SPDX-License-Identifier: Apache-2.0
"""NVRTC makes the same kind of machine code as nvcc; where it is not installed, that is said."""

from __future__ import annotations

import shutil
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import tvm_ffi

import xnortvm
from xnortvm.errors import CompileError, MissingDependencyError
from xnortvm.runtime import cuda_compiler, nvrtc

ARCHES = ["sm_75", "sm_80", "sm_90a", "sm_120"]


def have(monkeypatch, library: object) -> None:
    """Replace the package that calls NVRTC."""
    package = ModuleType("cuda.bindings")
    package.nvrtc = library  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", package)


@pytest.fixture
def installed(monkeypatch) -> None:
    """NVRTC as the only compiler of this machine."""
    if nvrtc.find() is None:
        pytest.skip(f"needs NVRTC: {nvrtc.INSTALL}")
    which = shutil.which
    there = lambda name: None if name.endswith("nvcc") else which(name)  # noqa: E731
    monkeypatch.setattr(cuda_compiler.shutil, "which", there)
    monkeypatch.delenv("CUDACXX", raising=False)


class Net(torch.nn.Module):
    """A float stem, a binary layer that packs signs, and one that returns floats."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 64, 3, padding=1)
        self.first = torch.nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.last = torch.nn.Conv2d(64, 40, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.max_pool2d(self.stem(x), 2)
        for layer in (self.first, self.last):
            signs = torch.where(x >= 0, 1.0, -1.0)
            x = torch.nn.functional.conv2d(signs, layer.weight.sign(), padding=layer.padding)
        return torch.softmax(x.mean((2, 3)), -1)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("arch", ARCHES)
def test_a_library_holds_machine_code_and_no_source(arch: str) -> None:
    x = torch.zeros(1, 3, 32, 32)
    library = xnortvm.compile(Net(), target=f"cuda -arch={arch}", example_inputs=x).library
    assert b"nv.info" in library
    assert b"__popc" not in library


@pytest.mark.usefixtures("installed")
def test_registers_and_spills_are_read() -> None:
    code = 'extern "C" __global__ void k(float* x) { x[threadIdx.x] /= x[0]; }'
    with cuda_compiler.compiling_for("sm_90a") as resources:
        made = tvm_ffi.get_global_func("tvm_callback_cuda_compile")(code)
    assert bytes(made).startswith(b"\x7fELF")
    assert resources.registers["k"] > 4
    assert resources.spills == {"k": 0}
    assert cuda_compiler.find_cuda_compiler().version.startswith("13.")


@pytest.mark.usefixtures("installed")
def test_source_that_does_not_compile_is_one_sentence() -> None:
    sentence = "NVRTC could not compile the kernels for sm_80: .*error"
    with pytest.raises(CompileError, match=sentence), cuda_compiler.compiling_for("sm_80"):
        tvm_ffi.get_global_func("tvm_callback_cuda_compile")("void f() { this is no C }")


def test_an_older_one_has_no_headers(monkeypatch) -> None:
    have(monkeypatch, SimpleNamespace(nvrtcVersion=lambda: (0, 13, 0)))
    with pytest.raises(MissingDependencyError, match=r"NVRTC 13\.0 has no headers of CUDA"):
        nvrtc.find()
    have(monkeypatch, SimpleNamespace(nvrtcVersion=lambda: (0, 13, 3)))
    assert nvrtc.find() == (13, 3)


def test_a_package_without_its_library_is_none(monkeypatch) -> None:
    def missing() -> None:
        raise RuntimeError("libnvrtc.so.13 is not found")

    have(monkeypatch, SimpleNamespace(nvrtcVersion=missing))
    assert nvrtc.find() is None

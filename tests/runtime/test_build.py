# SPDX-License-Identifier: Apache-2.0
"""Building: the same bytes each time, no C compiler needed to call, clear errors."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xnortvm._tvm import BlockBuilder, IRModule, TensorType, relax, tirx
from xnortvm.errors import CompileError, MissingDependencyError, ModelError, TargetError
from xnortvm.report import Report
from xnortvm.runtime.build import build
from xnortvm.runtime.link import find_linker
from xnortvm.runtime.module import CompiledModel
from xnortvm.target import resolve

from .conftest import one_input, relax_module

ROOT = Path(__file__).parents[2]
MODULE = [("x", (4, 16), "float32")]


def _many_kernels(builder: Any, x: Any) -> Any:
    operators = (relax.op.exp, relax.op.nn.relu, relax.op.tanh, relax.op.negative, relax.op.abs)
    for number, operator in enumerate(operators):
        x = builder.emit(operator(x))
        x = builder.emit(relax.op.add(x, relax.const(np.full((16,), number, "float32"))))
        x = builder.emit(relax.op.nn.softmax(x))
    return x


def library_hash() -> str:
    """Build a module of many kernels and hash its library; also run in a fresh process."""
    built = build(relax_module(MODULE, _many_kernels), resolve("llvm"))
    return hashlib.sha256(built.library).hexdigest()


def test_the_same_module_gives_the_same_bytes_in_every_process():
    code = (
        "import importlib.util, sys; sys.path.insert(0, '.')\n"
        "import tests.runtime.test_build as t; print(t.library_hash())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "17", "TMPDIR": "/tmp"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    here = library_hash()
    assert here == library_hash()
    assert here == done.stdout.strip()


def test_calling_needs_no_c_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CC", raising=False)
    built = build(relax_module(MODULE, one_input), resolve("llvm"))
    model = CompiledModel.from_built(built, Report())
    assert model(np.zeros((4, 16), "float32")).shape == (4, 16)
    with pytest.raises(MissingDependencyError, match="needs a C compiler"):
        _ = model.library


def test_a_wrong_cc_variable_is_named(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    with pytest.raises(MissingDependencyError, match="CC names 'no-such-compiler'"):
        find_linker()


def test_what_the_linker_says_is_passed_on(monkeypatch, tmp_path):
    linker = tmp_path / "cc"
    linker.write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    linker.chmod(0o755)
    monkeypatch.setenv("CC", str(linker))
    built = build(relax_module(MODULE, one_input), resolve("llvm"))
    with pytest.raises(CompileError, match="no space left"):
        _ = built.library


def test_linking_prints_nothing(capfd):
    _ = build(relax_module(MODULE, one_input), resolve("llvm")).library
    assert capfd.readouterr().err == ""


def test_dynamic_shapes_are_refused():
    builder = BlockBuilder()
    x = relax.Var("image", TensorType((1, tirx.Var("n", "int64")), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(relax.op.nn.relu(x))
        builder.emit_func_output(y)
    with pytest.raises(ModelError, match="image of the model has the dynamic shape"):
        build(builder.get(), resolve("llvm"))


def test_errors_of_tvm_name_the_target_and_the_dump_folder():
    mod = relax_module(MODULE, one_input)
    missing = IRModule({"main": mod["main"]})
    with pytest.raises(CompileError, match=r"could not build the model for llvm .*dump_dir="):
        build(missing, resolve("llvm"))


def test_code_for_another_machine_is_refused_when_called_not_when_built():
    foreign = resolve("llvm -mcpu=cortex-a72")
    built = build(relax_module(MODULE, one_input), foreign)
    model = CompiledModel.from_built(built, Report())
    with pytest.raises(TargetError, match=r"aarch64-linux-gnu, and this machine is"):
        model(np.zeros((4, 16), "float32"))


@pytest.mark.parametrize("layers", ["conv1", ["conv1", "conv2"]])
def test_kernels_know_their_layers_and_schedule(layers):
    mod = relax_module(MODULE, one_input)
    marked = mod["relu"].with_attr({"xnortvm.layer": layers, "xnortvm.schedule": "rule"})
    mod.update_func(mod.get_global_var("relu"), marked)
    kernels = build(mod, resolve("llvm")).interface.kernels
    assert kernels["relu"].layers == tuple([layers] if isinstance(layers, str) else layers)
    assert kernels["relu"].schedule == "rule"
    assert kernels["add"].layers == ()

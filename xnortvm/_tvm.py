# SPDX-License-Identifier: Apache-2.0
"""The one place that knows which TVM this is written for.

Other modules take TVM's names from here. When the pin moves, this file moves and the others do
not. What running a model needs is in `xnortvm._tvm_runtime`, which checks the versions.

``xnortvm.*`` modules log through ``logging.getLogger("xnortvm")``.
"""

from __future__ import annotations

import importlib
from typing import Any

from xnortvm._tvm_runtime import (
    PINS,
    RUNTIME_ONLY,
    Pin,
    VirtualMachine,
    check_versions,
    installed_version,
    release,
    runtime,
    tvm,
    tvm_ffi,
)
from xnortvm.errors import MissingDependencyError

if RUNTIME_ONLY:
    raise MissingDependencyError(
        "compiling needs TVM's compiler library, and this is TVM's runtime alone (libtvm_compiler "
        "is missing, or TVM_USE_RUNTIME_LIB=1 leaves it out); compile on another machine and call "
        "xnortvm.load here, or install apache-tvm again"
    )

from tvm import ir, relax, s_tir, te, tirx, topi
from tvm.ir import IRModule, PointerType, PrimType
from tvm.ir import transform as ir_transform
from tvm.ir.instrument import DumpIR, PassTimingInstrument
from tvm.ir.utils import derived_object
from tvm.relax import (
    BlockBuilder,
    PyExprMutator,
    PyExprVisitor,
    ShapeType,
    TensorType,
    TupleType,
    VMExecutable,
    dpl,
)
from tvm.relax import transform as relax_transform
from tvm.relax.expr_functor import mutator, visitor
from tvm.s_tir import Schedule, ScheduleError, TensorIntrin
from tvm.target import codegen

TvmTarget = tvm.target.Target

__all__ = [
    "PINS",
    "BlockBuilder",
    "DumpIR",
    "IRModule",
    "PassTimingInstrument",
    "Pin",
    "PointerType",
    "PrimType",
    "PyExprMutator",
    "PyExprVisitor",
    "Schedule",
    "ScheduleError",
    "ShapeType",
    "TensorIntrin",
    "TensorType",
    "TupleType",
    "TvmTarget",
    "VMExecutable",
    "VirtualMachine",
    "check_versions",
    "codegen",
    "cuda_capability",
    "derived_object",
    "dpl",
    "from_exported_program",
    "from_onnx",
    "host_cpu_features",
    "installed_version",
    "ir",
    "ir_transform",
    "mutator",
    "relax",
    "relax_transform",
    "release",
    "runtime",
    "s_tir",
    "target_kind_options",
    "target_tags",
    "te",
    "tirx",
    "topi",
    "tvm",
    "tvm_ffi",
    "typed_global_var",
    "visitor",
]


def host_cpu_features() -> dict[str, bool]:
    """Return what LLVM reads from this machine's CPU: feature name to present or absent."""
    return {
        str(name): bool(present)
        for name, present in tvm_ffi.get_global_func(
            "tvm.codegen.llvm.GetHostCPUFeatures"
        )().items()
    }


def cuda_capability() -> tuple[int, int] | None:
    """Return the compute capability of the first CUDA device, None when there is none."""
    from xnortvm.runtime.cuda_driver import capability

    return capability()


def target_kind_options(kind: str) -> dict[str, str]:
    """Return the options of a TVM target kind and the types of their values."""
    options = tvm_ffi.get_global_func("target.ListTargetKindOptionsFromName")(kind)
    return {str(name): str(type_name) for name, type_name in options.items()}


def target_tags() -> frozenset[str]:
    """Return the names of the targets that TVM itself defines."""
    return frozenset(str(name) for name in tvm_ffi.get_global_func("target.TargetTagListTags")())


def typed_global_var(name: str, func: Any) -> Any:
    """Return a new name for a function; a global variable carries its function's type."""
    gvar = ir.GlobalVar(name)
    relax.expr._update_type(gvar, func.ty)
    return gvar


def _front_end(module: str, needs: str, extra: str) -> Any:
    try:
        importlib.import_module(needs)
    except ImportError as error:
        raise MissingDependencyError(
            f"reading this model needs the package {needs}, which cannot be imported ({error}); "
            f'run: pip install "xnortvm[{extra}]"'
        ) from error
    return importlib.import_module(module)


def from_exported_program(program: Any, **options: Any) -> Any:
    """Import a ``torch.export.ExportedProgram`` into Relax."""
    front_end = _front_end("tvm.relax.frontend.torch", "torch", "torch")
    return front_end.from_exported_program(program, **options)


def from_onnx(model: Any, **options: Any) -> Any:
    """Import an ``onnx.ModelProto`` into Relax."""
    front_end = _front_end("tvm.relax.frontend.onnx", "onnx", "onnx")
    return front_end.from_onnx(model, **options)

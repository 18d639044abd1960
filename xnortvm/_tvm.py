# SPDX-License-Identifier: Apache-2.0
"""The one place that knows which TVM this is written for.

Other modules take TVM's names from here. When the pin moves, this file moves and the others do
not. Importing it checks the versions of the installed packages *before* TVM is loaded (a wrong
`apache-tvm-ffi` crashes the process instead of raising) and quietens TVM's own logging.

``xnortvm.*`` modules log through ``logging.getLogger("xnortvm")``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import re
from typing import Any, NamedTuple

from xnortvm.errors import MissingDependencyError, VersionError


class Pin(NamedTuple):
    """Accepted versions of one package: ``low <= version < below``, by release numbers."""

    package: str
    low: tuple[int, ...]
    below: tuple[int, ...]
    install: str
    why: str


PINS = (
    Pin(
        "apache-tvm",
        (0, 27),
        (0, 28),
        "apache-tvm==0.27.0.post1",
        "TVM renames its Python modules from release to release",
    ),
    Pin(
        "apache-tvm-ffi",
        (0, 1, 14),
        (0, 1, 15),
        "apache-tvm-ffi>=0.1.14.post0,<0.1.15",
        "0.1.15 crashes the process when TVM saves a module or tensorizes a loop",
    ),
)


def release(version: str) -> tuple[int, ...]:
    """Return the release numbers of a version: ``"0.1.14.post1"`` gives ``(0, 1, 14)``."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in match.group().split(".")) if match else ()


def installed_version(package: str) -> str | None:
    """Return the installed version of a distribution, None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_versions() -> None:
    """Refuse versions of TVM that are known not to work.

    Raises
    ------
    VersionError
        With the command that installs a version that works.
    """
    for pin in PINS:
        found = installed_version(pin.package)
        if found is None:
            raise VersionError(f'{pin.package} is not installed; run: pip install "{pin.install}"')
        if not pin.low <= release(found) < pin.below:
            raise VersionError(
                f"{pin.package} {found} is installed and xnortvm needs {pin.install} "
                f'({pin.why}); run: pip install "{pin.install}"'
            )


check_versions()
logging.getLogger("tvm").setLevel(logging.WARNING)

import tvm  # noqa: E402
import tvm_ffi  # noqa: E402
from tvm import ir, relax, runtime, s_tir, te, tirx, topi  # noqa: E402
from tvm.ir import IRModule, PointerType, PrimType  # noqa: E402
from tvm.ir import transform as ir_transform  # noqa: E402
from tvm.ir.instrument import DumpIR, PassTimingInstrument  # noqa: E402
from tvm.ir.utils import derived_object  # noqa: E402
from tvm.relax import (  # noqa: E402
    BlockBuilder,
    PyExprMutator,
    PyExprVisitor,
    ShapeType,
    TensorType,
    TupleType,
    VirtualMachine,
    VMExecutable,
    dpl,
)
from tvm.relax import transform as relax_transform  # noqa: E402
from tvm.relax.expr_functor import mutator, visitor  # noqa: E402
from tvm.s_tir import Schedule, ScheduleError, TensorIntrin  # noqa: E402
from tvm.target import codegen  # noqa: E402

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
    device = tvm.cuda(0)
    if not device.exist:
        return None
    major, minor = str(device.compute_version).split(".")
    return int(major), int(minor)


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

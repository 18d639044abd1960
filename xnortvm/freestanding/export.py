# SPDX-License-Identifier: Apache-2.0
"""A scheduled module → object file, header, example and manifest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xnortvm._tvm import IRModule
from xnortvm.errors import CompileError, ModelError, TargetError
from xnortvm.freestanding import c_text
from xnortvm.freestanding.entry import make_object, workspace_bytes
from xnortvm.freestanding.kernels import plain_kernels
from xnortvm.freestanding.object_file import ElfObject, read_object
from xnortvm.freestanding.plan import make_plan
from xnortvm.runtime.interface import TensorSpec

if TYPE_CHECKING:
    from xnortvm.target import Target

#: Of every pointer: TVM's kernels load and store whole vectors.
ALIGNMENT = 64

#: What an object file may need: the memory functions that compilers take for granted, the maths of
#: C99, and what compilers call for arithmetic that a CPU lacks (libgcc, compiler-rt).
_MEMORY = frozenset({"memset", "memcpy", "memmove"})
_MATHS = re.compile(
    r"(a?(sin|cos|tan)h?|atan2|exp|exp2|exp10|expm1|log|log2|log10|log1p|pow|sqrt|cbrt|hypot|"
    r"erf|erfc|floor|ceil|round|roundeven|rint|nearbyint|trunc|fmod|fma|fmax|fmin|fabs|ldexp)f?"
)
_COMPILER = re.compile(
    r"__aeabi_\w+|__(u?(div|mod|divmod)|mul|ashl|ashr|lshr|popcount)[sdt]i[234]|"
    r"__(add|sub|mul|div|neg)[sd]f[23]|__float(un)?[sdt]i[sd]f|__fix(uns)?[sd]f[sdt]i|"
    r"__(eq|ne|g[te]|l[te]|unord)[sd]f2|__extendsfdf2|__truncdfsf2"
)


@dataclass(frozen=True)
class Freestanding:
    """What was made of a model.

    Attributes
    ----------
    prefix : str
        Of every symbol.
    object : bytes
        The ELF object file.
    code, weights, workspace : int
        Bytes of machine code, of all constants in the object, and of the caller's workspace.
    needs : tuple of str
        Symbols that the object file needs of others.
    inputs, outputs : tuple of TensorSpec
    about : str
        For people: what it was made for.
    """

    prefix: str
    object: bytes
    code: int
    weights: int
    workspace: int
    needs: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    about: str

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of code, weights and workspace."""
        return {"code": self.code, "weights": self.weights, "workspace": self.workspace}

    def members(self, expected: Sequence[np.ndarray[Any, Any]]) -> dict[str, bytes]:
        """Return object file, header and expected outputs.

        Parameters
        ----------
        expected : sequence of ndarray
            Outputs for the inputs of `xnortvm.freestanding.samples`.
        """
        header = c_text.header(
            self.prefix,
            self.inputs,
            self.outputs,
            about=self.about,
            alignment=ALIGNMENT,
            workspace=self.workspace,
            needs=self.needs,
        )
        return {
            f"{self.prefix}.o": self.object,
            f"{self.prefix}.h": header.encode(),
            f"{self.prefix}_expected.h": c_text.expected_header(self.prefix, expected).encode(),
        }

    def texts(self) -> dict[str, str]:
        """Return the example program, which is there to be changed."""
        return {"main.c": c_text.example(self.prefix, self.inputs, self.outputs)}

    def manifest(self) -> dict[str, Any]:
        """Return what the manifest says beside versions and checksums."""
        return {
            "kind": "freestanding",
            "functions": [f"{self.prefix}_run", f"{self.prefix}_workspace_bytes"],
            "needs": list(self.needs),
            "alignment": ALIGNMENT,
            "bytes": self.sizes,
        }


def check_prefix(prefix: str) -> None:
    """Refuse what cannot begin a name of C.

    Raises
    ------
    ModelError
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", prefix):
        raise ModelError(
            f"the prefix {prefix!r} cannot begin the names of C functions; use letters, digits and "
            "_, a letter first, as in prefix='net'"
        )
    if prefix == "main":
        raise ModelError("the prefix 'main' would name a file main.h beside main.c; use another")


def check_target(target: Target) -> None:
    """Refuse targets that have no freestanding form.

    Raises
    ------
    TargetError
    """
    if target.kind != "llvm":
        raise TargetError(
            f"a freestanding object holds code for a CPU, and {target.name} is a {target.kind} "
            "target; compile for a CPU, or save the model for TVM's runtime"
        )
    if re.search(r"darwin|macos|ios|windows", target.triple):
        raise TargetError(
            f"a freestanding object is an ELF file, and {target.triple} links other files; "
            "compile for a triple of Linux or of bare metal, such as aarch64-unknown-none-elf"
        )


def make(
    mod: IRModule,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    target: Target,
    prefix: str,
) -> Freestanding:
    """Make the object file of a model.

    Parameters
    ----------
    mod : IRModule
        As after the phase "schedule", for one thread.
    inputs, outputs : sequence of TensorSpec
        Of ``main``.
    target : Target
    prefix : str
        Of every global symbol, of macros (in capitals) and of files.

    Raises
    ------
    TargetError, ModelError
        When target, prefix or model have no freestanding form.
    CompileError
        When the model cannot do without TVM's runtime.
    """
    check_prefix(prefix)
    check_target(target)
    check_interface(inputs, outputs)
    kernels = plain_kernels(mod, target, prefix, ALIGNMENT)
    plan = make_plan(mod, kernels, ALIGNMENT)
    data = make_object(kernels, plan, prefix, ALIGNMENT)
    elf = read_object(data)
    if elf is None:
        raise TargetError(
            f"a freestanding object is an ELF file of little endian, and code for {target.name} "
            "is none; compile for another target"
        )
    check_symbols(elf, prefix)
    return Freestanding(
        prefix=prefix,
        object=data,
        code=elf.code,
        weights=elf.constants,
        workspace=workspace_bytes(plan),
        needs=tuple(sorted(elf.undefined)),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        about=f"A model compiled for {target.name}",
    )


def check_interface(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Refuse inputs and outputs that a C function of fixed shapes cannot take.

    Raises
    ------
    ModelError
    """
    for spec in (*inputs, *outputs):
        if spec.has_batch:
            raise ModelError(
                "a freestanding model has fixed shapes and this one has a dynamic batch "
                f"({spec.name}: {spec}); compile it for one batch size, without dynamic_batch"
            )
        if spec.dtype not in c_text.C_TYPES:
            raise ModelError(
                f"{spec.name} of the model is {spec.dtype}, which C99 has no type for; convert it "
                "in the model, for example to float32"
            )


def check_symbols(elf: ElfObject, prefix: str) -> None:
    """Refuse an object file that is not freestanding.

    Raises
    ------
    CompileError
        When it defines or needs other symbols than it should, or holds variables.
    """
    wanted = {f"{prefix}_run", f"{prefix}_workspace_bytes"}
    if elf.defined != wanted:
        raise CompileError(
            f"the object file defines {', '.join(sorted(elf.defined))} where "
            f"{' and '.join(sorted(wanted))} were expected; this is a bug of xnortvm, please "
            "report the model"
        )
    foreign = sorted(name for name in elf.undefined if not _is_known(name))
    if foreign or elf.state:
        what = f"{', '.join(foreign)}" if foreign else f"{elf.state} bytes of variables"
        raise CompileError(
            f"the model's code needs {what}, which no freestanding system offers; "
            "save the model with CompiledModel.save instead"
        )


def _is_known(name: str) -> bool:
    return name in _MEMORY or bool(_MATHS.fullmatch(name) or _COMPILER.fullmatch(name))

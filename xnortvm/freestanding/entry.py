# SPDX-License-Identifier: Apache-2.0
"""Kernels and plan → one LLVM module with two functions to call, and its object file.

What TVM prints is edited as text, line by line: kernels become internal, what nobody calls goes,
the entry and the weights are added. `xnortvm.freestanding.export` looks at the symbols of the
object, so that a line which was not understood is an error and not a surprise at link time.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np

from xnortvm._tvm import runtime
from xnortvm.errors import CompileError
from xnortvm.freestanding.kernels import Kernels
from xnortvm.freestanding.plan import Place, Plan

#: What the entry returns when a pointer is null or misaligned.
BAD_POINTER = 1

#: Debug information that TVM adds to kernels: variables that no source has.
_DEBUG = re.compile(r",? !dbg !\d+|^ +#dbg_.*\n|^!llvm\.dbg\.cu = .*\n", re.MULTILINE)
#: Conversions that TVM adds to every module, for code on 16-bit floats.
_HALF = re.compile(
    r"^define weak .*? @(__truncsfhf2|__extendhfsf2)\(.*?\n}\n", re.DOTALL | re.MULTILINE
)


def make_object(kernels: Kernels, plan: Plan, prefix: str, alignment: int) -> bytes:
    """Return the object file.

    Parameters
    ----------
    kernels : Kernels
    plan : Plan
    prefix : str
        Of ``PREFIX_run`` and ``PREFIX_workspace_bytes``.
    alignment : int
        Of the weights, and of every pointer that the entry takes.

    Raises
    ------
    CompileError
        When TVM's code is not what it was when this was written.
    """
    code = _without_half(_DEBUG.sub("", kernels.code))
    code = _internal(code, list(kernels.symbols.values()))
    weights = f"@{prefix}__weights = internal constant [{len(plan.weights)} x i8] "
    data = _quoted(plan.weights)
    text = b"\n".join(
        [
            code.encode(),
            weights.encode() + b'c"' + data + b'", align ' + str(alignment).encode(),
            _entry(plan, prefix, alignment).encode(),
            _workspace_bytes(plan, prefix, code).encode(),
        ]
    )
    with tempfile.TemporaryDirectory(prefix="xnortvm-object-") as folder:
        source, result = Path(folder) / "model.ll", Path(folder) / "model.o"
        source.write_bytes(text)
        try:
            runtime.load_module(str(source)).write_to_file(str(result), "o")
        except Exception as error:
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise CompileError(f"LLVM could not make the object file: {last}") from error
        return result.read_bytes()


def _without_half(code: str) -> str:
    """Keep the conversions of 16-bit floats, as internal functions, where there are such floats."""
    rest = _HALF.sub("", code)
    used = re.search(r"\bhalf\b", re.sub(r"^declare .*$", "", rest, flags=re.MULTILINE))
    if not used:
        return rest
    return re.sub(
        r"^define weak (?:dso_local )?(.*? @__(?:truncsfhf2|extendhfsf2)\(.*?\)) .*\{$",
        r"define internal \1 {",
        code,
        flags=re.MULTILINE,
    )


def _internal(code: str, symbols: list[str]) -> str:
    """Make kernels visible to the entry alone."""
    code = re.sub(r"^@llvm\.global_ctors = appending global \[0 x .*\n", "", code, flags=re.M)
    for symbol in symbols:
        code, found = re.subn(
            rf"^define (?:dllexport |dso_local )*([^@\n]*i32 @{symbol}\()",
            r"define internal \1",
            code,
            flags=re.MULTILINE,
        )
        if found != 1:
            raise CompileError(
                f"LLVM's code holds the kernel {symbol} {found} times where once was expected; "
                "this is a bug of xnortvm, please report the model"
            )
    return code


def _quoted(data: bytes) -> bytes:
    r"""Return bytes as LLVM writes them: ``\00\FF``."""
    digits = np.frombuffer(b"0123456789ABCDEF", np.uint8)
    values = np.frombuffer(data, np.uint8)
    text = np.empty((len(data), 3), np.uint8)
    text[:, 0], text[:, 1], text[:, 2] = ord("\\"), digits[values >> 4], digits[values & 15]
    return text.tobytes()


def _entry(plan: Plan, prefix: str, alignment: int) -> str:
    taken = [f"%input{i}" for i in range(plan.inputs)]
    taken += [f"%output{i}" for i in range(plan.outputs)] + ["%workspace"]
    lines = [f"define i32 @{prefix}_run({', '.join(f'ptr {name}' for name in taken)}) nounwind {{"]

    def emit(name: str, value: str) -> str:
        lines.append(f"  {name} = {value}")
        return name

    bad = ""
    for index, name in enumerate(taken):
        number = emit(f"%address{index}", f"ptrtoint ptr {name} to i64")
        low = emit(f"%low{index}", f"and i64 {number}, {alignment - 1}")
        null = emit(f"%null{index}", f"icmp eq i64 {number}, 0")
        odd = emit(f"%odd{index}", f"icmp ne i64 {low}, 0")
        either = emit(f"%either{index}", f"or i1 {null}, {odd}")
        bad = emit(f"%bad{index}", f"or i1 {bad}, {either}") if bad else either
    lines += [f"  br i1 {bad}, label %refuse, label %run", "run:"]

    def pointer(place: Place) -> str:
        if place.area in ("input", "output"):
            return f"ptr %{place.area}{place.at}"
        base = {"weights": f"@{prefix}__weights", "workspace": "%workspace"}[place.area]
        if not place.at:
            return f"ptr {base}"
        if place.area == "weights":
            return f"ptr getelementptr (i8, ptr {base}, i64 {place.at})"
        name = f"%at{place.at}"
        if name not in known:
            known.add(name)
            emit(name, f"getelementptr i8, ptr {base}, i64 {place.at}")
        return f"ptr {name}"

    known: set[str] = set()
    for index, step in enumerate(plan.steps):
        arguments = ", ".join([pointer(place) for place in step.pointers])
        emit(f"%result{index}", f"call i32 @{step.symbol}({arguments})")
    for copy in plan.copies:
        lines.append(
            "  call void @llvm.memcpy.p0.p0.i32("
            f"ptr %output{copy.output}, {pointer(copy.source)}, i32 {copy.size}, i1 false)"
        )
    lines += ["  ret i32 0", "refuse:", f"  ret i32 {BAD_POINTER}", "}", ""]
    if plan.copies:
        lines.append("declare void @llvm.memcpy.p0.p0.i32(ptr, ptr, i32, i1)\n")
    return "\n".join(lines)


def _workspace_bytes(plan: Plan, prefix: str, code: str) -> str:
    layout = re.search(r'^target datalayout = "(.*)"$', code, re.MULTILINE)
    short = layout is not None and "p:32" in layout[1]
    kind = "i32" if short else "i64"
    size = workspace_bytes(plan)
    return f"define {kind} @{prefix}_workspace_bytes() nounwind {{\n  ret {kind} {size}\n}}\n"


def workspace_bytes(plan: Plan) -> int:
    """Return the bytes of the workspace; an array of C has at least one."""
    return max(plan.workspace, 1)

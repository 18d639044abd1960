# SPDX-License-Identifier: Apache-2.0
"""Scheduled kernels → LLVM code of plain functions that take pointers and a workspace.

TVM's own passes lower a kernel; what they wrap around its body (a packed calling convention, checks
of tensors, error messages, calls of the runtime) is left behind. So the body is the one that the
ordinary library has, and computes the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xnortvm._tvm import IRModule, PointerType, PrimType, ir, ir_transform, tirx, tvm_ffi
from xnortvm.errors import CompileError

if TYPE_CHECKING:
    from xnortvm.target import Target

#: Bytes from which TVM takes an array of a kernel from its runtime instead of the stack.
_STACK_BYTES = 1024


@dataclass(frozen=True)
class Kernels:
    """Kernels as LLVM code.

    Attributes
    ----------
    code : str
        An LLVM module. Every kernel is ``i32 symbol(ptr argument, …, ptr workspace)``; inputs come
        before outputs, and it returns 0.
    symbols : dict of str to str
        From the name of a kernel in ``main`` to its symbol.
    scratch : dict of str to int
        Bytes of the workspace that a kernel uses while it runs.
    """

    code: str
    symbols: dict[str, str]
    scratch: dict[str, int]


def plain_kernels(mod: IRModule, target: Target, prefix: str, alignment: int) -> Kernels:
    """Lower the kernels of a scheduled module.

    Parameters
    ----------
    mod : IRModule
        As after the phase "schedule", for one thread.
    target : Target
    prefix : str
        Put before the names of the kernels.
    alignment : int
        Bytes that every pointer is aligned to.

    Raises
    ------
    CompileError
        When a kernel cannot do without TVM's runtime.
    """
    symbols, functions = {}, {}
    for gvar in mod.get_global_vars():
        if isinstance(mod[gvar], tirx.PrimFunc):
            symbols[gvar.name_hint] = f"{prefix}__{gvar.name_hint}"
            named = mod[gvar].with_attr("global_symbol", symbols[gvar.name_hint])
            functions[gvar] = named
    lower, finish, _ = tirx.get_tir_pipeline("s_tir")
    bind = tirx.transform.BindTarget(target.tvm.with_host(target.tvm))
    with target.tvm, ir_transform.PassContext(opt_level=3):
        packed = lower(bind(IRModule(functions)))
        plain, scratch = {}, {}
        for gvar, func in functions.items():
            name = gvar.name_hint
            body = _Body(name, alignment)
            func = body.plain(func, packed[name]).with_attr("global_symbol", symbols[name])
            plain[ir.GlobalVar(symbols[name])] = func
            scratch[name] = body.scratch
        module = tvm_ffi.get_global_func("target.build.llvm")(finish()(IRModule(plain)), target.tvm)
    return Kernels(str(module.inspect_source("ll")), symbols, scratch)


class _Body:
    """Makes one kernel plain, and counts what it needs of the workspace."""

    def __init__(self, name: str, alignment: int) -> None:
        self._name = name
        self._alignment = alignment
        self._workspace = _pointer("workspace", "uint8")
        self.scratch = 0

    def plain(self, func: Any, packed: Any) -> Any:
        """Return the plain form of a kernel.

        Parameters
        ----------
        func : PrimFunc
            Whose parameters are buffers.
        packed : PrimFunc
            The same, lowered by TVM: it binds those buffers to the tensors that it is given, and
            computes on them in an attribute "compute_scope".
        """
        scopes = _compute_scopes(packed.body)
        if len(scopes) != 1:
            raise CompileError(
                f"the kernel {self._name} has {len(scopes)} bodies where one was expected, so it "
                "cannot run without TVM; save the model with CompiledModel.save instead"
            )
        pointers = [_pointer(f"{p.name}_data", _element(p.ty.dtype)) for p in func.params]
        declared = [
            tirx.DeclBuffer(param, data=pointer)
            for param, pointer in zip(func.params, pointers, strict=True)
        ]
        zero = tirx.stmt.Return(tirx.IntImm("int32", 0))
        body: Any = tirx.SeqStmt([*declared, self._without_heap(scopes[0]), zero])
        for aligned in (*func.params, self._workspace):
            body = tirx.AttrStmt(
                aligned, "storage_alignment", tirx.IntImm("int32", self._alignment), body
            )
        attrs = {"tirx.noalias": True, "target": packed.attrs["target"]}
        return tirx.PrimFunc(
            [*pointers, self._workspace], body, ret_type=PrimType("int32")
        ).with_attr(attrs)

    def _without_heap(self, stmt: Any) -> Any:
        """Return a statement whose large arrays lie in the workspace."""
        make = _REBUILT.get(type(stmt))
        if make is not None:
            return make(stmt, self._without_heap)
        if isinstance(stmt, tirx.AllocBuffer):
            return self._in_workspace(stmt)
        return stmt

    def _in_workspace(self, stmt: Any) -> Any:
        buffer = stmt.buffer
        size = bytes_of(buffer.shape, _element(buffer.dtype))
        if size < _STACK_BYTES and buffer.scope() == "global":
            return stmt
        start = tirx.handle_add_byte_offset(self._workspace, self.scratch)
        self.scratch += aligned(size, self._alignment)
        kind = PointerType(PrimType(_element(buffer.dtype)), buffer.scope())
        return tirx.DeclBuffer(buffer, data=tirx.reinterpret(kind, start))


def bytes_of(shape: Any, dtype: str) -> int:
    """Return the bytes of an array of a static shape; a bool is a byte."""
    kind = tvm_ffi.dtype(dtype)
    count = 1
    for dim in shape:
        count *= int(dim)
    return count * ((int(kind.bits) * int(kind.lanes) + 7) // 8)


def aligned(size: int, alignment: int) -> int:
    """Round up to a multiple of the alignment."""
    return -(-size // alignment) * alignment


def _element(dtype: Any) -> str:
    return str(dtype.dtype if hasattr(dtype, "dtype") else dtype)


def _pointer(name: str, dtype: str) -> Any:
    return tirx.Var(name, PointerType(PrimType(dtype), "global"))


def _compute_scopes(stmt: Any) -> list[Any]:
    if isinstance(stmt, tirx.SeqStmt):
        return [scope for part in stmt.seq for scope in _compute_scopes(part)]
    if isinstance(stmt, tirx.AttrStmt):
        return [stmt] if stmt.attr_key == "compute_scope" else _compute_scopes(stmt.body)
    return []


def _loop(stmt: Any, inner: Any) -> Any:
    if stmt.kind == tirx.stmt.ForKind.PARALLEL:
        raise CompileError(
            "a kernel runs on several threads, which need TVM's runtime; compile for one thread"
        )
    return tirx.For(
        stmt.loop_var,
        stmt.min,
        stmt.extent,
        stmt.kind,
        inner(stmt.body),
        stmt.thread_binding,
        stmt.annotations,
        stmt.step,
    )


def _branch(stmt: Any, inner: Any) -> Any:
    other = None if stmt.else_case is None else inner(stmt.else_case)
    return tirx.IfThenElse(stmt.condition, inner(stmt.then_case), other)


#: How statements that hold others are made again, with what `inner` makes of those.
_REBUILT = {
    tirx.SeqStmt: lambda stmt, inner: tirx.SeqStmt([inner(part) for part in stmt.seq]),
    tirx.AttrStmt: lambda stmt, inner: tirx.AttrStmt(
        stmt.node, stmt.attr_key, stmt.value, inner(stmt.body)
    ),
    tirx.For: _loop,
    tirx.While: lambda stmt, inner: tirx.While(stmt.condition, inner(stmt.body)),
    tirx.IfThenElse: _branch,
}

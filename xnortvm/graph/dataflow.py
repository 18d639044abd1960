# SPDX-License-Identifier: Apache-2.0
"""A Relax dataflow function as a graph: who makes a value, who uses it, and how to rebuild it.

After import a model is one function ``main`` whose body is a list of bindings ``var = call``.
`Graph` is a read-only view of that list; `rebuild` writes a new list, one binding at a time.
Every pass of `xnortvm.transform` is built from these two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from xnortvm._tvm import BlockBuilder, IRModule, ir, relax, runtime

#: Visitor of `rebuild`: (builder, old variable, call with new arguments) -> new expression, or
#: None to keep the call.
Visit = Callable[["Builder", Any, Any], Any]


def is_const(expr: Any) -> bool:
    """Tell whether an expression is a tensor constant."""
    return isinstance(expr, ir.GenericConst)


def value_of(expr: Any) -> np.ndarray[Any, Any] | None:
    """Return the value of a tensor constant as a NumPy array, None for anything else."""
    if not is_const(expr) or not isinstance(expr.value, runtime.Tensor):
        return None
    value: np.ndarray[Any, Any] = expr.value.numpy()
    return value


def const(value: np.ndarray[Any, Any]) -> Any:
    """Make a tensor constant of the array's own dtype."""
    return relax.const(np.asarray(value, order="C"), str(value.dtype))


def shape_of(expr: Any) -> tuple[int, ...] | None:
    """Return the static shape of a tensor expression, None when it has none."""
    ty = expr.ty
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        return None
    dims = [getattr(dim, "value", None) for dim in ty.shape.values]
    static = tuple(int(dim) for dim in dims if dim is not None)
    return static if len(static) == len(dims) else None


def dtype_of(expr: Any) -> str:
    """Return the dtype of a tensor expression, '' when it is not a tensor."""
    ty = expr.ty
    return (
        str(ty.dtype.dtype if hasattr(ty.dtype, "dtype") else ty.dtype)
        if isinstance(ty, relax.TensorType)
        else ""
    )


def op_name(expr: Any) -> str:
    """Return the name of the operator that an expression calls, '' for anything else."""
    return str(expr.op.name) if isinstance(expr, ir.Call) and isinstance(expr.op, ir.Op) else ""


def layer_name(call: Any, default: str = "") -> str:
    """Return the user's name of the layer a call came from (the front end keeps it as the span)."""
    span = getattr(call, "span", None)
    name = getattr(getattr(span, "source_name", None), "name", "") if span is not None else ""
    return str(name) or default


class Values:
    """Knows which expression computes each variable."""

    value: dict[Any, Any]

    def producer(self, expr: Any) -> Any:
        """Return the call that computes an expression, following variables; None for inputs."""
        while isinstance(expr, relax.Var):
            expr = self.value.get(expr)
        return expr


class Graph(Values):
    """Read-only view of a dataflow function.

    Attributes
    ----------
    params : list of Var
    bindings : list of (Var, Expr)
        In order of execution.
    result : Expr
        The variable or tuple that the function returns.
    value : dict
        From a variable to the expression bound to it.
    users : dict
        From a variable to the variables whose expressions use it, in order; the function's result
        counts as the user ``None``.
    """

    def __init__(self, func: Any) -> None:
        self.params = list(func.params)
        self.bindings = [(b.var, b.value) for block in func.body.blocks for b in block.bindings]
        self.result = func.body.body
        self.value: dict[Any, Any] = dict(self.bindings)
        self.users: dict[Any, list[Any]] = {var: [] for var in self.value}
        self.users.update({param: [] for param in self.params})
        for var, expr in self.bindings:
            for used in variables(expr):
                self.users[used].append(var)
        for used in variables(self.result):
            self.users[used].append(None)

    def calls(self) -> Iterator[tuple[Any, Any]]:
        """Yield (variable, call) for every operator call."""
        for var, expr in self.bindings:
            if isinstance(expr, ir.Call):
                yield var, expr


def variables(expr: Any) -> list[Any]:
    """Return the variables that one binding's expression reads, in order."""
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, ir.Call):
        return [v for arg in expr.args for v in variables(arg)]
    if isinstance(expr, relax.Tuple):
        return [v for field in expr.fields for v in variables(field)]
    if isinstance(expr, relax.TupleGetItem):
        return variables(expr.tuple_value)
    return []


class Builder(Values):
    """Emits the bindings of a function that is being rebuilt; see `rebuild`.

    Attributes
    ----------
    env : dict
        From a variable of the old function to its new expression.
    value : dict
        From a variable of the new function to the expression bound to it, so that a pass can look
        at what it has already rewritten.
    """

    def __init__(self) -> None:
        self.block = BlockBuilder()
        self.env: dict[Any, Any] = {}
        self.value = {}

    def emit(self, expr: Any, name: str = "", span: Any = None) -> Any:
        """Bind an expression to a new variable and return it; atoms are returned as they are."""
        if isinstance(expr, relax.Var) or is_const(expr):
            return expr
        if span is not None and isinstance(expr, ir.Call) and expr.span is None:
            expr = ir.Call(expr.op, expr.args, expr.attrs, expr.ty_args, span)
        var = self.block.emit(expr, name)
        self.value[var] = expr
        return var

    def new(self, expr: Any) -> Any:
        """Return an old expression with its variables replaced by their new values."""
        if isinstance(expr, relax.Var):
            return self.env.get(expr, expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.new(field) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            source = self.new(expr.tuple_value)
            if isinstance(source, relax.Tuple):
                return source.fields[expr.index]
            return relax.TupleGetItem(source, expr.index)
        if isinstance(expr, ir.Call):
            args = [self.new(arg) for arg in expr.args]
            if all(a.same_as(b) for a, b in zip(args, expr.args, strict=True)):
                return expr
            return ir.Call(expr.op, args, expr.attrs, expr.ty_args, expr.span)
        return expr


def rebuild(
    mod: IRModule,
    visit: Visit,
    finish: Callable[[Builder, Any], Any] | None = None,
    name: str = "main",
) -> IRModule:
    """Return the module with one function rebuilt binding by binding.

    Parameters
    ----------
    mod : IRModule
    visit : callable
        Called with (builder, old variable, expression over new variables) for every binding that
        is a call. What it returns takes the place of the expression; None keeps it. It may emit
        further bindings through the builder.
    finish : callable, optional
        Called with (builder, result over new variables); returns the result to use.
    name : str
        The function to rebuild.

    Returns
    -------
    IRModule
        A new module; bindings that nothing uses are gone.
    """
    func = mod[name]
    graph = Graph(func)
    builder = Builder()
    params = [relax.Var(str(param.name), param.ty) for param in graph.params]
    builder.env = dict(zip(graph.params, params, strict=True))
    attrs = func.attrs
    with builder.block.function(name, params, attrs=dict(attrs.items()) if attrs else None):
        with builder.block.dataflow():
            for var, old in graph.bindings:
                expr = builder.new(old)
                if isinstance(expr, ir.Call):
                    replacement = visit(builder, var, expr)
                    expr = expr if replacement is None else replacement
                atom = isinstance(expr, (relax.Var, relax.Tuple)) or is_const(expr)
                builder.env[var] = expr if atom else builder.emit(expr, str(var.name))
            result = builder.new(graph.result)
            if finish is not None:
                result = finish(builder, result)
            output = builder.block.emit_output(result)
        builder.block.emit_func_output(output)
    new = builder.block.get()
    updated = IRModule({gvar: mod[gvar] for gvar in mod.get_global_vars()}, attrs=mod.attrs)
    updated.update_func(updated.get_global_var(name), new[name])
    return relax.transform.DeadCodeElimination([name])(updated)

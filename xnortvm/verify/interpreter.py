# SPDX-License-Identifier: Apache-2.0
"""What a Relax function computes, operator by operator, without building it.

NumPy computes what it knows; an operator that it does not know is built alone, with TVM's default
pipeline, and run. So any module that TVM can build has a value here, at about 0.2 s per unknown
operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

import numpy as np

from xnortvm._tvm import BlockBuilder, VirtualMachine, ir, relax, runtime, tvm
from xnortvm.errors import VerificationError
from xnortvm.frontend.numpy_ops import NUMPY_OPS
from xnortvm.graph.dataflow import Graph, dtype_of, op_name, shape_of, variables
from xnortvm.graph.pointwise import POINTWISE, apply, scalar_operand
from xnortvm.verify.numpy_layers import LAYER_RULES

Array = np.ndarray[Any, Any]

#: Called with a variable and its value; returns the value to go on with.
Seen = Callable[[Any, Any], Any]

#: Called with a variable, the call and its arguments; None to compute it as usual.
Known = Callable[[Any, Any, "list[Any]"], Any]


def _filter(call: Any, shapes: list[Any]) -> int:
    layout = str(getattr(call.attrs, "kernel_layout", "OHWI"))
    return prod(shapes[1]) // int(shapes[1][layout.index("O")])


def _window(call: Any, shapes: list[Any]) -> int:
    return prod(int(extent) for extent in call.attrs.pool_size)


def _all(_: Any, shapes: list[Any]) -> int:
    return prod(shapes[0]) // max(1, prod(shapes[-1]))


#: Operators that add up, with the number of terms from a call and the shapes of what it reads and
#: makes.
_TERMS: dict[str, Callable[[Any, list[Any]], int]] = {
    "relax.matmul": lambda _, shapes: int(shapes[0][-1]),
    "relax.mean": _all,
    "relax.nn.adaptive_avg_pool2d": _all,
    "relax.nn.avg_pool2d": _window,
    "relax.nn.conv1d": _filter,
    "relax.nn.conv2d": _filter,
    "relax.sum": _all,
}


class UnknownOperatorError(Exception):
    """An operator that has no value here: neither NumPy nor TVM's default pipeline computes it."""


class Interpreter:
    """Evaluates one function.

    Parameters
    ----------
    func : relax.Function
        One dataflow block.
    """

    def __init__(self, func: Any) -> None:
        self.graph = Graph(func)
        self._built: dict[Any, Any] = {}

    def needed(self, wanted: Iterable[Any], given: Iterable[Any] = ()) -> set[Any]:
        """Variables that must be computed for `wanted` when those in `given` are known."""
        stop = set(given)
        found: set[Any] = set()
        todo = [var for expr in wanted for var in variables(expr)]
        while todo:
            var = todo.pop()
            if var not in found:
                found.add(var)
                if var in self.graph.value and var not in stop:
                    todo += variables(self.graph.value[var])
        return found

    def run(
        self,
        inputs: Mapping[Any, Any],
        wanted: list[Any],
        *,
        seen: Seen | None = None,
        known: Known | None = None,
    ) -> list[Any]:
        """Compute expressions.

        Parameters
        ----------
        inputs : mapping
            Variables whose values are given, the function's parameters among them.
        wanted : list of relax.Expr
        seen : callable, optional
            Sees every value and may replace it.
        known : callable, optional
            May compute a call in its own way.

        Returns
        -------
        list
            An array for each tensor, a tuple for each tuple.

        Raises
        ------
        UnknownOperatorError
        """
        env = {var: seen(var, x) if seen is not None else x for var, x in inputs.items()}
        needed = self.needed(wanted, inputs)
        last = self._last_uses(needed, wanted)
        for index, (var, _) in enumerate(self.graph.bindings):
            if var not in needed or var in env:
                continue
            value = self.value(env, var, known)
            env[var] = value if seen is None else seen(var, value)
            for dead in last.get(index, ()):
                env.pop(dead, None)
        return [self.expr(env, expr) for expr in wanted]

    def terms(self, var: Any) -> int:
        """Return how many terms each element of a variable is a sum of; 1 for what is no sum."""
        call = self.graph.value.get(var)
        count = _TERMS.get(op_name(call))
        if call is None or count is None:
            return 1
        shapes = [shape_of(expr) for expr in (*call.args[:2], var)]
        return 1 if None in shapes else max(1, count(call, shapes))

    def _last_uses(self, needed: set[Any], wanted: list[Any]) -> dict[int, list[Any]]:
        kept = {var for expr in wanted for var in variables(expr)}
        last: dict[Any, int] = {}
        for index, (var, expr) in enumerate(self.graph.bindings):
            if var in needed:
                last.update((used, index) for used in variables(expr))
        dead: dict[int, list[Any]] = {}
        for var, index in last.items():
            if var not in kept:
                dead.setdefault(index, []).append(var)
        return dead

    def value(self, env: dict[Any, Any], var: Any, known: Known | None = None) -> Any:
        """Compute one variable from the values of those that it reads."""
        expr = self.graph.value[var]
        if not isinstance(expr, ir.Call):
            return self.expr(env, expr)
        args = [self.expr(env, arg) for arg in expr.args]
        value = known(var, expr, args) if known is not None else None
        return self.call(var, expr, args) if value is None else value

    def shape(self, env: dict[Any, Any], var: Any) -> tuple[int, ...] | None:
        """Return the extents of a variable."""
        return shape_of(var)

    def expr(self, env: dict[Any, Any], expr: Any) -> Any:
        """Return the value of a variable, a constant, a tuple of them, or a number."""
        if isinstance(expr, relax.Var):
            return env[expr]
        if isinstance(expr, ir.GenericConst) and isinstance(expr.value, runtime.Tensor):
            return expr.value.numpy()
        if isinstance(expr, relax.Tuple):
            return tuple(self.expr(env, field) for field in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            return self.expr(env, expr.tuple_value)[expr.index]
        if isinstance(expr, relax.ShapeExpr):
            return tuple(getattr(dim, "value", dim) for dim in expr.values)
        scalar = scalar_operand(expr)
        return scalar if scalar is not None else expr

    def call(self, var: Any, call: Any, args: list[Any]) -> Any:
        name = op_name(call)
        value = None
        with np.errstate(all="ignore"):
            if name in LAYER_RULES:
                value = LAYER_RULES[name](call.attrs, *args)
            elif name in POINTWISE:
                value = apply(call, args)
            elif name in NUMPY_OPS:
                value = NUMPY_OPS[name](call.attrs, *args)
        if value is None:
            value = self._by_tvm(call, args)
        return _typed(var, call, value)

    def _by_tvm(self, call: Any, args: list[Any]) -> Any:
        if not isinstance(call.op, ir.Op):
            raise UnknownOperatorError(f"a call of {call.op}")
        arrays = [(i, x) for i, x in enumerate(args) if _is_tensor(call.args[i])]
        key = (str(call), *((x.shape, str(x.dtype)) for _, x in arrays))
        if key not in self._built:
            self._built[key] = _build(call, arrays)
        result = self._built[key](*(runtime.tensor(np.asarray(x, order="C")) for _, x in arrays))
        return _arrays(result)


def _is_tensor(expr: Any) -> bool:
    return isinstance(getattr(expr, "ty", None), relax.TensorType)


def _build(call: Any, arrays: list[tuple[int, Array]]) -> Any:
    args = list(call.args)
    params = []
    for place, value in arrays:
        param = relax.Var(f"arg{place}", relax.TensorType(value.shape, str(value.dtype)))
        params.append(param)
        args[place] = param
    builder = BlockBuilder()
    try:
        with builder.function("main", params):
            with builder.dataflow():
                inner = ir.Call(call.op, args, call.attrs, call.ty_args)
                output = builder.emit_output(builder.normalize(inner))
            builder.emit_func_output(output)
        return VirtualMachine(relax.build(builder.get(), "llvm"), tvm.cpu())["main"]
    except Exception as error:  # TVM refuses in any way
        raise UnknownOperatorError(op_name(call).removeprefix("relax.")) from error


def _arrays(result: Any) -> Any:
    if isinstance(result, runtime.Tensor):
        return result.numpy()
    return tuple(_arrays(field) for field in result)


def _typed(var: Any, call: Any, value: Any) -> Any:
    """Give an array the dtype and the shape that its variable has."""
    if isinstance(value, (list, tuple)):
        return tuple(value)
    if not isinstance(var.ty, relax.TensorType):
        return value
    value = np.asarray(value)
    dtype = dtype_of(var)
    if str(value.dtype) != dtype and dtype != "bfloat16":
        value = value.astype(dtype)
    shape = shape_of(var)
    if shape is not None and value.shape != shape:
        if value.size != np.prod(shape, dtype=np.int64):
            try:
                return np.broadcast_to(value, shape)
            except ValueError:
                raise VerificationError(
                    f"{op_name(call)} has a result of shape {value.shape} where TVM says {shape}, "
                    "so the compiled code is wrong; compute this operator outside of the model"
                ) from None
        value = value.reshape(shape)
    return value

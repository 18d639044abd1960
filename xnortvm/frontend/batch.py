# SPDX-License-Identifier: Apache-2.0
"""A dynamic batch: proof that the samples of a model do not meet, and the model for one of them.

Every operator of the imported module is asked whether sample n of its result depends on sample n
of its operands alone. Values lie sample after sample along dimension 0, whose extent is batch · k,
so ``view(batch * rows, columns)`` is as good as the batch itself. If all operators agree, the model
for batch 1 says everything: it is what gets compiled, and `xnortvm.runtime.samples` runs it for one
sample after the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from xnortvm._tvm import IRModule, PrimType, ir, relax, relax_transform, tirx, tvm
from xnortvm.errors import ModelError
from xnortvm.frontend.finish import finish
from xnortvm.frontend.imported import Batch, Imported
from xnortvm.graph.dataflow import Graph, layer_name, op_name, variables
from xnortvm.graph.pointwise import is_pointwise

_HELP = "export the model with a fixed batch size instead"


def one_sample(imported: Imported) -> Imported:
    """Reduce a model with a dynamic batch to the model for one sample.

    Parameters
    ----------
    imported : Imported

    Returns
    -------
    Imported
        With `batch` set; the argument itself when its shapes are all static.

    Raises
    ------
    ModelError
        When an operator mixes samples, naming it and its layer.
    """
    main = imported.mod["main"]
    symbol = _symbol(main, imported.input_names)
    if symbol is None:
        return imported
    inputs = frozenset(str(p.name) for p in main.params if _uses(p.ty, symbol))
    outputs = _Proof(Graph(main), symbol).check(imported.output_names)
    low, high = (
        dict((main.attrs or {}).get(f"tir_var_{side}_bound", {})).get(str(symbol.name))
        for side in ("lower", "upper")
    )
    name = "batch" if re.fullmatch(r"s\d+", str(symbol.name)) else str(symbol.name)
    # PyTorch says "at least 2" of every dimension that may vary, and runs such programs with 1.
    least = 1 if low is None or int(low) <= 2 else int(low)
    batch = Batch(name, least, None if high is None else int(high), inputs, outputs)
    return replace(imported, mod=_for_one(imported.mod, symbol), batch=batch)


def _symbol(main: Any, names: Sequence[str]) -> Any:
    """Return the one symbolic dimension of the inputs, None when all are static."""
    found: dict[Any, str] = {}
    for param, name in zip(main.params, names, strict=True):
        for dim in param.ty.shape.values:
            if isinstance(dim, tirx.IntImm):
                continue
            if not isinstance(dim, tirx.Var):
                raise ModelError(f"input {name!r} has the batch {dim}, which is computed; {_HELP}")
            found.setdefault(dim, name)
    if len(found) > 1:
        listed = ", ".join(f"{name!r} has {str(dim.name)!r}" for dim, name in found.items())
        raise ModelError(
            f"the inputs have different dynamic dimensions ({listed}), and a model has one batch; "
            "export it with the same Dim for all inputs"
        )
    return next(iter(found), None)


def _for_one(mod: IRModule, symbol: Any) -> IRModule:
    mod = relax_transform.BindSymbolicVars({symbol: 1}, "main")(mod)
    for side in ("lower", "upper"):
        mod["main"] = mod["main"].without_attr(f"tir_var_{side}_bound")
    return finish(mod)


def _uses(value: Any, symbol: Any) -> bool:
    """Whether a type, a shape or a number contains the symbol."""
    if isinstance(value, relax.TensorType):
        return value.shape is not None and _uses(value.shape, symbol)
    if isinstance(value, relax.ShapeExpr):
        return any(_uses(dim, symbol) for dim in value.values)
    if isinstance(value, relax.TupleType | relax.Tuple):
        return any(_uses(field, symbol) for field in value.fields)
    if isinstance(value, tirx.Var):
        return bool(symbol.same_as(value))
    if isinstance(getattr(value, "ty", None), PrimType):
        return any(symbol.same_as(var) for var in tirx.analysis.undefined_vars(value))
    return False


class _Proof:
    """Which values hold all samples, one after the other."""

    def __init__(self, graph: Graph, symbol: Any) -> None:
        self.graph = graph
        self.symbol = symbol
        self.many = {param for param in graph.params if _uses(param.ty, symbol)}
        self.depends = set(self.many)

    def check(self, output_names: Sequence[str]) -> tuple[bool, ...]:
        """Return which outputs hold samples; `ModelError` names the first operator that mixes them.

        A value that holds samples has entries for each of them, one after the other.
        """
        for var, expr in self.graph.bindings:
            used = [arg for arg in variables(expr) if arg in self.many]
            if any(arg in self.depends for arg in variables(expr)):
                self.depends.add(var)
            shared = not _uses(var.ty, self.symbol)
            if shared and (not used or isinstance(expr, relax.TupleGetItem)):
                continue
            reason = self._reason(var, expr)
            if reason is not None:
                layer = layer_name(expr, "")
                name = op_name(expr).removeprefix("relax.") or "a call"
                raise ModelError(
                    f"the batch of this model cannot be dynamic: {name}"
                    f"{f' in layer {layer!r}' if layer else ''} {reason}; {_HELP}"
                )
            self.many.add(var)
        result = self.graph.value.get(self.graph.result, self.graph.result)
        fields = result.fields if isinstance(result, relax.Tuple) else [self.graph.result]
        for name, field in zip(output_names, fields, strict=False):
            if field in self.many and field not in self.depends:
                raise ModelError(
                    f"output {name!r} has the batch size in its shape and does not depend on an "
                    f"input; leave it out, or {_HELP}"
                )
        return tuple(field in self.many for field in fields)

    def _reason(self, var: Any, expr: Any) -> str | None:
        if not isinstance(expr, ir.Call):
            return None
        if isinstance(var.ty, relax.TupleType):
            types = [field for field in var.ty.fields if _uses(field, self.symbol)]
        else:
            types = [var.ty]
        rule = _pointwise if is_pointwise(expr) else RULES.get(op_name(expr))
        if rule is None:
            return "may let samples meet, as far as is known"
        reason = rule(self, var, expr)
        if reason is None and any(self.per_sample(ty) is None for ty in types):
            reason = "gives a value whose first dimension is not the batch"
        return reason

    def per_sample(self, ty: Any) -> int | None:
        """Return k where dimension 0 is batch · k and no other one depends on the batch."""
        if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
            return None
        if not ty.shape.values:
            return None
        first, *rest = ty.shape.values
        if not all(isinstance(dim, tirx.IntImm) for dim in rest) or isinstance(first, tirx.IntImm):
            return None
        at_one = tvm.sym.Analyzer()
        at_one.bind(self.symbol, tirx.IntImm("int64", 1))
        count = at_one.simplify(first)
        if not isinstance(count, tirx.IntImm):
            return None
        analyzer = tvm.sym.Analyzer()
        same = analyzer.can_prove_equal(first, self.symbol * tirx.IntImm("int64", int(count)))
        return int(count) if same else None

    def is_shared(self, arg: Any) -> bool:
        """Whether an operand is the same for all samples."""
        return arg not in self.many and not _uses(arg, self.symbol)


#: Says in words why samples may meet in a call, None where they do not.
Rule = Callable[[_Proof, Any, Any], str | None]


def _pointwise(proof: _Proof, var: Any, call: Any) -> str | None:
    rank = var.ty.ndim
    for arg in call.args:
        if arg in proof.many:
            if arg.ty.ndim != rank:
                return "broadcasts the batch to another dimension"
        elif not proof.is_shared(arg):
            return "computes with the batch size"
        elif isinstance(arg.ty, relax.TensorType) and not _is_broadcast(arg, rank):
            return "has an operand with one entry for each sample of a fixed batch"
    return None


def _is_broadcast(arg: Any, rank: int) -> bool:
    """Whether an operand has no extent of its own along dimension 0 of the result."""
    shape = arg.ty.shape
    dims = list(shape.values) if isinstance(shape, relax.ShapeExpr) else None
    return dims is not None and (len(dims) < rank or int(dims[0]) == 1)


def _axes(proof: _Proof, var: Any, call: Any) -> str | None:
    """Operators that work along the axes of their attributes."""
    attrs = call.attrs
    given = attrs.axis if hasattr(attrs, "axis") else attrs.axes
    tensor = call.args[0].fields[0] if isinstance(call.args[0], relax.Tuple) else call.args[0]
    result = var.ty.fields[0] if isinstance(var.ty, relax.TupleType) else var.ty
    rank = max(tensor.ty.ndim, result.ndim)
    if given is None:
        return "works on all dimensions, the batch too"
    axes = [given] if isinstance(given, int) else list(given)
    if any(int(axis) % rank == 0 for axis in axes):
        return "works along the batch"
    fields = call.args[0].fields if isinstance(call.args[0], relax.Tuple) else []
    if any(field not in proof.many for field in fields):
        return "joins values with and without the batch"
    others = call.args[1:]
    return None if all(proof.is_shared(arg) for arg in others) else "mixes two values"


def _images(proof: _Proof, _: Any, call: Any) -> str | None:
    """Operators on images: the first argument has the batch, the others are parameters."""
    layout = str(getattr(call.attrs, "data_layout", getattr(call.attrs, "layout", "N")))
    if layout[:1] != "N":
        return f"has the layout {layout}"
    if call.args[0] not in proof.many or not all(map(proof.is_shared, call.args[1:])):
        return "has weights that are computed from the input"
    return None


def _normalised(proof: _Proof, var: Any, call: Any) -> str | None:
    attrs = call.attrs
    axes = [int(attrs.axis)] if hasattr(attrs, "axis") else [int(axis) for axis in attrs.axes]
    if any(axis % call.args[0].ty.ndim == 0 for axis in axes):
        return "normalises along the batch"
    return _images(proof, var, call)


def _pad(_: _Proof, __: Any, call: Any) -> str | None:
    return None if not any(int(w) for w in call.attrs.pad_width[:2]) else "pads the batch"


def _permute(_: _Proof, __: Any, call: Any) -> str | None:
    axes = call.attrs.axes
    first = axes is not None and int(axes[0]) == 0
    return None if first else "moves the batch to another dimension"


def _slice(proof: _Proof, _: Any, call: Any) -> str | None:
    axes, begins, ends, *strides = call.args[1:]
    for place, axis in enumerate(axes.fields):
        if int(axis.value) % call.args[0].ty.ndim:
            continue
        begin, end = begins.fields[place], ends.fields[place]
        step = strides[0].fields[place] if strides and strides[0] is not None else None
        extent = call.args[0].ty.shape.values[0]
        whole = tvm.sym.Analyzer().can_prove_equal(end, extent) or (
            isinstance(end, tirx.IntImm) and int(end) >= 2**31 - 1
        )
        if not (isinstance(begin, tirx.IntImm) and int(begin) == 0 and whole):
            return "selects samples"
        if step is not None and int(step) != 1:
            return "selects samples"
    return None


def _matmul(proof: _Proof, _: Any, call: Any) -> str | None:
    left, right = call.args
    ranks = left.ty.ndim, right.ty.ndim
    if left in proof.many and right in proof.many:
        return None if ranks[0] == ranks[1] >= 3 else "multiplies samples by each other"
    if left in proof.many:
        fits = ranks[0] >= 2 and (ranks[1] <= 2 or _is_broadcast(right, ranks[0]))
    else:
        fits = ranks[1] >= 3 and _is_broadcast(left, ranks[1])
    return None if fits else "sums up over the batch"


def _never(_: _Proof, __: Any, ___: Any) -> None:
    """Operators whose result type says everything: reshapes, broadcasts, fills."""


RULES: dict[str, Rule] = {
    **{
        f"relax.{name}": _axes
        for name in (
            *("mean", "sum", "max", "min", "prod", "std", "variance", "argmax", "argmin"),
            *("nn.softmax", "nn.log_softmax", "cumsum", "cumprod", "sort", "argsort", "topk"),
            *("flip", "concat", "split", "take", "squeeze", "expand_dims", "repeat"),
            *("gather_elements", "logsumexp", "median"),
        )
    },
    **{
        f"relax.nn.{name}": _images
        for name in (
            *("conv1d", "conv2d", "conv3d", "conv1d_transpose", "conv2d_transpose"),
            *("conv3d_transpose", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d"),
            *("avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"),
            *("adaptive_avg_pool3d", "pixel_shuffle", "dropout"),
        )
    },
    "relax.image.resize2d": _images,
    "relax.nn.batch_norm": _normalised,
    "relax.nn.layer_norm": _normalised,
    "relax.nn.group_norm": _normalised,
    "relax.nn.instance_norm": _normalised,
    "relax.nn.rms_norm": _normalised,
    "relax.nn.pad": _pad,
    "relax.permute_dims": _permute,
    "relax.strided_slice": _slice,
    "relax.matmul": _matmul,
    **{
        f"relax.{name}": _never
        for name in (
            *("reshape", "flatten", "broadcast_to", "zeros", "ones", "full"),
            *("zeros_like", "ones_like", "full_like"),
            "call_dps_packed",  # stands for an unsupported operator, which is refused as such
        )
    },
}
"""What is known about operators that are not elementwise."""

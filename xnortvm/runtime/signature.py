# SPDX-License-Identifier: Apache-2.0
"""Read the interface of a compiled model from Relax ``main``."""

from __future__ import annotations

from dataclasses import replace
from itertools import repeat
from typing import TYPE_CHECKING, Any

from xnortvm._tvm import IRModule, TensorType, TupleType, relax, tirx
from xnortvm.errors import ModelError
from xnortvm.runtime.interface import Interface, Kernel, TensorSpec

if TYPE_CHECKING:
    from xnortvm.frontend.imported import Batch


def inputs_of(mod: IRModule) -> tuple[TensorSpec, ...]:
    """Read names, shapes and dtypes of the parameters of ``main``."""
    return tuple(_spec(p.name, p.ty) for p in mod["main"].params)


def interface_of(mod: IRModule, batch: Batch | None = None) -> Interface:
    """Read the interface of a module's ``main`` and the layer names of its kernels.

    With `batch`, dimension 0 of what holds samples is a multiple of the batch.

    They come from the function attributes ``xnortvm.layer`` (one name or a list of them) and
    ``xnortvm.schedule``.

    Raises
    ------
    ModelError
        When a shape is not known at compile time.
    """
    inputs = inputs_of(mod)
    fields = _flat(mod["main"].ret_ty)
    outputs = tuple(_spec(f"output{i}", ty) for i, ty in enumerate(fields))
    if batch is not None:
        has_batch = [spec.name in batch.inputs for spec in inputs]
        inputs = tuple(map(_of_samples, inputs, has_batch, repeat(batch.name)))
        outputs = tuple(map(_of_samples, outputs, batch.outputs, repeat(batch.name)))
    kernels = {
        gv.name_hint: _kernel(func)
        for gv, func in mod.functions_items()
        if isinstance(func, tirx.PrimFunc)
    }
    limits = None if batch is None else (batch.low, batch.high)
    return Interface(inputs, outputs, dict(sorted(kernels.items())), limits)


def _of_samples(spec: TensorSpec, has_batch: bool, name: str) -> TensorSpec:
    """Return the type of a batch of what `spec` says of one sample."""
    if not has_batch:
        return spec
    first, *rest = spec.shape
    return replace(spec, shape=(name if first == 1 else f"{first}·{name}", *rest))


def may_alias(mod: IRModule) -> bool:
    """Tell whether an output of ``main`` may share memory with an input or a constant.

    That is so for outputs that no kernel writes: inputs passed through, constants, reshapes.
    """
    main = mod["main"]
    body = main.body
    bound: dict[Any, Any] = {}
    while isinstance(body, relax.SeqExpr):
        for block in body.blocks:
            bound.update({binding.var: binding.value for binding in block.bindings})
        body = body.body
    return any(not _written(expr, bound) for expr in _leaves(body, bound))


def _leaves(expr: Any, bound: dict[Any, Any]) -> list[Any]:
    while isinstance(expr, relax.Var) and expr in bound:
        expr = bound[expr]
    if isinstance(expr, relax.Tuple):
        return [leaf for field in expr.fields for leaf in _leaves(field, bound)]
    return [expr]


def _written(expr: Any, bound: dict[Any, Any]) -> bool:
    while True:
        if isinstance(expr, relax.Var) and expr in bound:
            expr = bound[expr]
        elif isinstance(expr, relax.TupleGetItem):
            expr = expr.tuple_value
        else:
            break
    return isinstance(expr, relax.Call) and getattr(expr.op, "name", "") in (
        "relax.call_tir",
        "relax.call_tir_with_grad",
    )


def _flat(ty: Any) -> list[Any]:
    if isinstance(ty, TupleType):
        return [leaf for field in ty.fields for leaf in _flat(field)]
    return [ty]


def _spec(name: str, ty: Any) -> TensorSpec:
    if not isinstance(ty, TensorType):
        raise ModelError(f"{name} of the model is a {type(ty).__name__}, and only tensors can run")
    shape = list(ty.shape.values) if ty.shape is not None else None
    if shape is None or not all(isinstance(n, tirx.IntImm) for n in shape):
        raise ModelError(
            f"{name} of the model has the dynamic shape {ty.shape}; "
            "export the model with fixed sizes, the batch apart"
        )
    return TensorSpec(name, tuple(map(int, shape)), str(ty.dtype))


def _kernel(func: Any) -> Kernel:
    attrs = dict(func.attrs or {})
    layers = attrs.get("xnortvm.layer", ())
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    return Kernel(tuple(map(str, names)), str(attrs.get("xnortvm.schedule", "")))

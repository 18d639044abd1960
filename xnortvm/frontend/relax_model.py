# SPDX-License-Identifier: Apache-2.0
"""A Relax module that the user made."""

from __future__ import annotations

from typing import Any

import numpy as np

from xnortvm._tvm import IRModule, relax, relax_transform, runtime
from xnortvm.errors import ModelError
from xnortvm.frontend.finish import finish
from xnortvm.frontend.imported import Imported
from xnortvm.frontend.shapes import refuse_dynamic
from xnortvm.graph.dataflow import Graph, dtype_of, op_name


def import_relax(mod: IRModule) -> Imported:
    """Bind the parameters of a Relax module and fold what depends on them alone.

    Parameters
    ----------
    mod : IRModule
        With a function ``main``; its parameters' values are constants already, or lie in the
        function attribute ``params`` as TVM's front ends put them there.

    Raises
    ------
    ModelError
        Without ``main``, or where a parameter has no value or an input no static shape.
    """
    function = _main(mod)
    mod = _bound(mod, function)
    mod = _one_block(mod)
    _refuse_boolean_arithmetic(mod)
    params = list(mod["main"].params)
    for param in params:
        refuse_dynamic(str(param.name), _extents(param))
    outputs = _output_names(mod["main"])
    structure = outputs if isinstance(_result_type(mod), relax.TupleType) else outputs[0]
    names = tuple(str(param.name) for param in params)
    return Imported(finish(mod), names, outputs, structure, "relax")


def _main(mod: IRModule) -> Any:
    names = [str(name.name_hint) for name in mod.get_global_vars()]
    if "main" not in names:
        raise ModelError(
            f"the Relax module has no function 'main' (it has {', '.join(names) or 'none'}); "
            "rename the function that is the model to main"
        )
    function = mod["main"]
    if not isinstance(function, relax.Function):
        raise ModelError(
            f"'main' of the module is a {type(function).__name__}; pass the module as it is "
            "before lowering, with main as a Relax function"
        )
    return function


def _bound(mod: IRModule, function: Any) -> IRModule:
    attrs = function.attrs or {}
    if "params" not in attrs:
        return mod
    values = list(attrs["params"])
    params = function.params[len(function.params) - len(values) :]
    binding = {
        param: value if isinstance(value, runtime.Tensor) else runtime.tensor(np.asarray(value))
        for param, value in zip(params, values, strict=True)
    }
    mod = relax_transform.BindParams("main", binding)(mod)
    mod["main"] = mod["main"].without_attr("params")
    return mod


def _one_block(mod: IRModule) -> IRModule:
    """Bring the bindings of ``main`` into one dataflow block where they are spread over several."""
    mod = relax_transform.Normalize()(mod)
    if all(isinstance(block, relax.DataflowBlock) for block in mod["main"].body.blocks):
        return mod
    return relax_transform.ConvertToDataflow(min_size=0)(mod)


_ARITHMETIC = frozenset(f"relax.{name}" for name in ("add", "subtract", "multiply", "divide"))


def _refuse_boolean_arithmetic(mod: IRModule) -> None:
    """TVM's own importer writes ``(x >= 0) * 2.0`` as a product of booleans."""
    for var, call in Graph(mod["main"]).calls():
        if op_name(call) in _ARITHMETIC and dtype_of(var) == "bool":
            name = op_name(call).removeprefix("relax.")
            raise ModelError(
                f"the Relax module computes {name} of booleans in {var.name}, and what that gives "
                "is not defined; write astype before arithmetic, or import the torch module itself"
            )


def _extents(param: Any) -> list[Any]:
    ty = param.ty
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        raise ModelError(
            f"parameter {param.name!s} of main is a {ty}; inputs are tensors whose shape is known, "
            "so give it a shape, or bind its value"
        )
    return [getattr(dim, "value", dim) for dim in ty.shape.values]


def _result_type(mod: IRModule) -> Any:
    return mod["main"].body.ty


def _output_names(function: Any) -> tuple[str, ...]:
    ty = function.body.ty
    if not isinstance(ty, relax.TupleType):
        return ("output",)
    return tuple(f"output{index}" for index in range(len(ty.fields)))

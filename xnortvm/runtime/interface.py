# SPDX-License-Identifier: Apache-2.0
"""What a compiled model takes and gives: names, shapes and dtypes, read from Relax ``main``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from xnortvm._tvm import IRModule, TensorType, TupleType, relax, tirx, tvm
from xnortvm.errors import ModelError


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes
    ----------
    name : str
        Name in the user's model; ``output0`` … for outputs.
    shape : tuple of int or str
        All dimensions, batch first. A dynamic batch is its name, such as ``"batch"``, or
        ``"4·batch"`` where dimension 0 has four entries for each sample.
    dtype : str
        NumPy's name of the element type, such as ``"float32"``.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    @property
    def has_batch(self) -> bool:
        """Whether dimension 0 is a dynamic batch."""
        return bool(self.shape) and isinstance(self.shape[0], str)

    def of_batch(self, size: int) -> tuple[int, ...]:
        """Return the shape of an input for a batch of so many samples."""
        return tuple(size if isinstance(dim, str) else dim for dim in self.shape)

    def __str__(self) -> str:
        return f"{self.dtype} [{'×'.join(map(str, self.shape)) or 'scalar'}]"


@dataclass(frozen=True)
class Kernel:
    """What the profile and the report know about one function of the library.

    Attributes
    ----------
    layers : tuple of str
        Names of the layers of the user's model that it computes, as far as they are known.
    schedule : str
        Name of the rule or record that scheduled it, empty when unknown.
    """

    layers: tuple[str, ...] = ()
    schedule: str = ""


@dataclass(frozen=True)
class Interface:
    """Inputs, outputs and kernels of a compiled model.

    Attributes
    ----------
    inputs, outputs : tuple of TensorSpec
        In the order of the arguments and of the results.
    kernels : dict of str to Kernel
        Every kernel of the library by its symbol.
    batch : (int, int or None) or None
        Smallest and largest batch of a model whose batch is dynamic; None is no limit.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    kernels: dict[str, Kernel]
    batch: tuple[int, int | None] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts and lists that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Interface:
        """Read what `to_json` gave."""

        def specs(rows: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
            return tuple(
                TensorSpec(
                    str(r["name"]),
                    tuple(n if isinstance(n, str) else int(n) for n in r["shape"]),
                    str(r["dtype"]),
                )
                for r in rows
            )

        kernels = {
            str(name): Kernel(tuple(row["layers"]), str(row["schedule"]))
            for name, row in data["kernels"].items()
        }
        low, high = data.get("batch") or (0, None)
        batch = (int(low), None if high is None else int(high)) if data.get("batch") else None
        return cls(specs(data["inputs"]), specs(data["outputs"]), kernels, batch)


def inputs_of(mod: IRModule) -> tuple[TensorSpec, ...]:
    """Read names, shapes and dtypes of the parameters of ``main``."""
    return tuple(_spec(p.name, p.ty) for p in mod["main"].params)


def interface_of(mod: IRModule) -> Interface:
    """Read the interface of a module's ``main`` and the layer names of its kernels.

    They come from the function attributes ``xnortvm.layer`` (one name or a list of them) and
    ``xnortvm.schedule``.

    Raises
    ------
    ModelError
        When a shape is not known at compile time, the batch apart.
    """
    main = mod["main"]
    inputs = inputs_of(mod)
    result = main.ret_ty
    fields = _flat(result)
    outputs = tuple(_spec(f"output{i}", ty) for i, ty in enumerate(fields))
    kernels = {
        gv.name_hint: _kernel(func)
        for gv, func in mod.functions_items()
        if isinstance(func, tirx.PrimFunc)
    }
    return Interface(inputs, outputs, dict(sorted(kernels.items())), _batch(main, inputs))


def _batch(main: Any, inputs: Sequence[TensorSpec]) -> tuple[int, int | None] | None:
    """Read the range of the batch from the attributes that TVM gives to symbolic dimensions."""
    if not any(spec.has_batch for spec in inputs):
        return None
    low, high = (
        next(iter(dict((main.attrs or {}).get(f"tir_var_{side}_bound", {})).values()), None)
        for side in ("lower", "upper")
    )
    return 1 if low is None else int(low), None if high is None else int(high)


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
    if shape is None or not all(isinstance(n, tirx.IntImm) for n in shape[1:]):
        raise ModelError(
            f"{name} of the model has the dynamic shape {ty.shape}; "
            "export the model with fixed sizes, the batch apart"
        )
    dims = [*map(_dimension, shape[:1]), *map(int, shape[1:])]
    return TensorSpec(name, tuple(dims), str(ty.dtype))


def _dimension(extent: Any) -> int | str:
    """Return a number, "batch", or "4·batch"."""
    if isinstance(extent, tirx.IntImm):
        return int(extent)
    (symbol,) = tirx.analysis.undefined_vars(extent)
    analyzer = tvm.sym.Analyzer()
    analyzer.bind(symbol, tirx.IntImm("int64", 1))
    count = int(analyzer.simplify(extent))
    return str(symbol.name) if count == 1 else f"{count}·{symbol.name}"


def _kernel(func: Any) -> Kernel:
    attrs = dict(func.attrs or {})
    layers = attrs.get("xnortvm.layer", ())
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    return Kernel(tuple(map(str, names)), str(attrs.get("xnortvm.schedule", "")))

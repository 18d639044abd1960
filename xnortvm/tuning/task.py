# SPDX-License-Identifier: Apache-2.0
"""Tuning tasks: the kernels of a model whose tile is a matter of decision, each once.

A kernel is known by its `Key`: the operator, its shapes and attributes, and what follows it in the
same kernel. Kernels with equal keys have equal code, whatever their weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from xnortvm._tvm import BlockBuilder, IRModule, ir, relax
from xnortvm.graph.dataflow import Builder, Graph, op_name, shape_of
from xnortvm.schedules.decisions import DECIDED_KEY, DECISIONS, ORIGIN, AnyDecisions
from xnortvm.transform.group import KERNEL_LAYER

#: Operators that anchor kernels with something to decide, and their short names.
TUNABLE = {
    "relax.xnortvm.bconv2d": "bconv2d",
    "relax.xnortvm.bdense": "bdense",
    "relax.nn.conv2d": "conv2d",
    "relax.xnortvm.stem_conv2d": "conv2d",
    "relax.matmul": "dense",
}

#: Anchors whose form and width are attributes of their calls.
_WITH_FORM = frozenset({"relax.xnortvm.bconv2d", "relax.xnortvm.bdense"})
_CONV_ATTRIBUTES = ("strides", "padding", "dilation", "groups")
_NO_PART_OF_A_KEY = frozenset({"layer", "form", "width"})


@dataclass(frozen=True)
class Key:
    """What makes two kernels the same to a tuner.

    Attributes
    ----------
    op : str
        Short name of the anchor.
    shapes : tuple of tuple of int
        Of what it reads, packed words as they are, and of its weights.
    attributes : str
        Of the anchor, as ``"strides=2,2 padding=1,1,1,1"``.
    epilogue : str
        The operators behind it, and the types of the outputs.
    """

    op: str
    shapes: tuple[tuple[int, ...], ...]
    attributes: str
    epilogue: str

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "op": self.op,
            "shapes": [list(shape) for shape in self.shapes],
            "attributes": self.attributes,
            "epilogue": self.epilogue,
        }

    @classmethod
    def from_json(cls, data: Any) -> Key:
        """Return the key that `to_json` described; ValueError when it is something else."""
        try:
            shapes = tuple(tuple(int(size) for size in shape) for shape in data["shapes"])
            return cls(str(data["op"]), shapes, str(data["attributes"]), str(data["epilogue"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("the key of a kernel is incomplete") from error

    @property
    def sizes(self) -> str:
        """The shapes, for people."""
        return " * ".join("×".join(map(str, shape)) for shape in self.shapes)

    def __str__(self) -> str:
        return f"{self.op} {self.sizes}"


@dataclass
class Task:
    """One kernel to be tuned.

    Attributes
    ----------
    key : Key
    mod : IRModule
        ``main`` calls the kernel, whose operators are not lowered yet; weights are constants.
    layers : list of str
        The layers of the model that it computes: as many calls in one run.
    """

    key: Key
    mod: IRModule = field(repr=False)
    layers: list[str]


def tasks_of(mod: IRModule) -> list[Task]:
    """Return the tasks of a module after `group_epilogues`, in order of first use."""
    found: dict[Key, Task] = {}
    for call in _calls(mod):
        func = mod[call.op]
        key = key_of(func)
        if key is None:
            continue
        task = found.setdefault(key, Task(key, IRModule(), []))
        if not task.layers:
            task.mod = _alone(func)
        task.layers.append(str(func.attrs[KERNEL_LAYER]))
    return list(found.values())


def _calls(mod: IRModule) -> Iterator[Any]:
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, ir.Call) and isinstance(value.op, ir.GlobalVar):
                yield value


def _alone(func: Any) -> IRModule:
    """Return a module whose ``main`` calls only this function."""
    builder = BlockBuilder()
    params = [relax.Var(f"x{i}", param.ty) for i, param in enumerate(func.params)]
    with builder.function("main", params):
        with builder.dataflow():
            gvar = builder.add_func(func, "kernel")
            output = builder.emit_output(relax.Call(gvar, params))
        builder.emit_func_output(output)
    return builder.get()


def key_of(func: Any) -> Key | None:
    """Return the key of a function of `group_epilogues`, None when there is nothing to decide."""
    anchor = _anchor(func)
    if anchor is None:
        return None
    graph = Graph(func)
    shapes = tuple(shape_of(arg) for arg in anchor.args[:2])
    if None in shapes:
        return None
    position = next(i for i, (_, expr) in enumerate(graph.bindings) if expr.same_as(anchor))
    behind = [op_name(expr).rpartition(".")[2] for _, expr in graph.bindings[position + 1 :]]
    made = graph.result.ty
    outputs = made.fields if isinstance(made, relax.TupleType) else [made]
    epilogue = " ".join(name for name in behind if name)
    types = "+".join(_dtype(output) for output in outputs)
    return Key(
        TUNABLE[op_name(anchor)],
        tuple(tuple(int(size) for size in shape) for shape in shapes if shape is not None),
        _attributes(anchor),
        f"{epilogue} -> {types}".strip(),
    )


def _dtype(ty: Any) -> str:
    return str(ty.dtype.dtype if hasattr(ty.dtype, "dtype") else ty.dtype)


def _anchor(func: Any) -> Any:
    """Return the only tunable call of a kernel, None without one."""
    if not isinstance(func, relax.Function) or not func.attrs or "Primitive" not in func.attrs:
        return None
    calls = [expr for _, expr in Graph(func).bindings if op_name(expr) in TUNABLE]
    if len(calls) != 1:
        return None
    (call,) = calls
    return None if _method(call) not in ("", "exact") else call


def _method(call: Any) -> str:
    attrs = call.attrs
    return (
        str(attrs["method"]) if isinstance(attrs, ir.attrs.DictAttrs) and "method" in attrs else ""
    )


def _attributes(call: Any) -> str:
    attrs = call.attrs
    if isinstance(attrs, ir.attrs.DictAttrs):
        found = {
            str(key): value for key, value in attrs.items() if str(key) not in _NO_PART_OF_A_KEY
        }
    else:
        found = {name: getattr(attrs, name) for name in _CONV_ATTRIBUTES if hasattr(attrs, name)}
    return " ".join(f"{name}={_plain(found[name])}" for name in sorted(found))


def _plain(value: Any) -> str:
    if isinstance(value, str | int | float):
        return str(value)
    return ",".join(str(int(each)) for each in value)


#: From a key to decisions and where they come from; None leaves the kernel to the rule.
Choose = Callable[[Key], "tuple[AnyDecisions, str] | None"]


def decide(choose: Choose) -> Callable[[IRModule], IRModule]:
    """Return the pass that gives kernels their decisions, after `group_epilogues`."""

    def apply(mod: IRModule) -> IRModule:
        functions = {gvar: mod[gvar] for gvar in mod.get_global_vars()}
        for gvar, func in functions.items():
            key = key_of(func)
            found = None if key is None else choose(key)
            if key is not None and found is not None:
                functions[gvar] = _with_decisions(func, key, *found)
        return IRModule(functions, attrs=mod.attrs)

    return apply


def _with_decisions(func: Any, key: Key, decisions: AnyDecisions, origin: str) -> Any:
    """Return the kernel with its decisions as attributes, and with those of its anchor's call."""
    graph, builder = Graph(func), Builder()
    params = [relax.Var(str(param.name), param.ty) for param in graph.params]
    builder.env = dict(zip(graph.params, params, strict=True))
    attrs = dict(func.attrs.items())
    attrs |= {DECISIONS: json.dumps(decisions.to_json()), ORIGIN: origin}
    attrs |= {DECIDED_KEY: json.dumps(key.to_json())}
    with builder.block.function("kernel", params, attrs=attrs, private=True):
        with builder.block.dataflow():
            for var, old in graph.bindings:
                expr = builder.new(old)
                if op_name(expr) in _WITH_FORM and decisions.call_attributes:
                    expr = _with_form(expr, decisions.call_attributes)
                atom = isinstance(expr, relax.Var | relax.Tuple)
                builder.env[var] = expr if atom else builder.emit(expr, str(var.name))
            output = builder.block.emit_output(builder.new(graph.result))
        builder.block.emit_func_output(output)
    return builder.block.get()["kernel"]


def _with_form(call: Any, more: dict[str, Any]) -> Any:
    attrs = {str(key): value for key, value in call.attrs.items()} | more
    return relax.Call(call.op, call.args, ir.make_node("ir.DictAttrs", **attrs))

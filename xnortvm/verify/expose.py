# SPDX-License-Identifier: Apache-2.0
"""Give an imported model the inputs and outputs of its layers as further outputs.

They go through the compiler's passes with it, so that afterwards it is known what each layer of the
user's model reads and makes, in the user's order of dimensions, whatever the passes did.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xnortvm._tvm import IRModule, relax
from xnortvm.graph.dataflow import Builder, Graph, layer_name, op_name, rebuild
from xnortvm.transform.lower_binary import LAYER_OPERATORS


class Exposed(NamedTuple):
    """A module with further outputs.

    Attributes
    ----------
    mod : IRModule
        Returns a tuple: the user's outputs, then input and output of each layer.
    outputs : int
        How many outputs are the user's.
    bare : bool
        Whether the user's model returns one tensor and no tuple.
    layers : tuple of str
        Names, as in the report.
    """

    mod: IRModule
    outputs: int
    bare: bool
    layers: tuple[str, ...]


def expose(mod: IRModule) -> Exposed:
    """Add the first argument and the result of every layer to the outputs of ``main``."""
    graph = Graph(mod["main"])
    counts: dict[str, int] = {}
    names: list[str] = []
    values: list[Any] = []
    for var, call in graph.calls():
        if op_name(call) in LAYER_OPERATORS:
            name = layer_name(call, str(var.name))
            counts[name] = counts.get(name, 0) + 1
            names.append(name if counts[name] == 1 else f"{name}#{counts[name]}")
            values += [call.args[0], var]
    result = graph.value.get(graph.result, graph.result)
    bare = not isinstance(result, relax.Tuple)
    size = 1 if bare else len(result.fields)

    def finish(builder: Builder, result: Any) -> Any:
        return relax.Tuple([*_fields(builder, result), *(builder.new(v) for v in values)])

    return Exposed(rebuild(mod, lambda *_: None, finish), size, bare, tuple(names))


def drop(mod: IRModule, exposed: Exposed) -> IRModule:
    """Take the further outputs away again, and all that only they needed."""

    def finish(builder: Builder, result: Any) -> Any:
        fields = _fields(builder, result)[: exposed.outputs]
        return fields[0] if exposed.bare else relax.Tuple(fields)

    return rebuild(mod, lambda *_: None, finish)


def _fields(builder: Builder, result: Any) -> list[Any]:
    made = builder.value.get(result, result) if isinstance(result, relax.Var) else result
    return list(made.fields) if isinstance(made, relax.Tuple) else [result]

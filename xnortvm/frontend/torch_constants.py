# SPDX-License-Identifier: Apache-2.0
"""Evaluate the nodes of an exported graph that do not depend on the model's inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


def evaluate(module: fx.GraphModule, known: dict[fx.Node, Any]) -> None:
    """Replace input-independent nodes by what they compute.

    ``conv(x, sign(W))`` becomes ``conv(x, constant)``, and a number from ``.item()`` becomes a
    literal. Random operators and operators that write to their arguments are left alone.

    Parameters
    ----------
    module : torch.fx.GraphModule
        Changed in place. Tensor constants become its attributes ``constant_0``, ``constant_1``, ….
    known : dict
        Placeholders whose values are known: tensors, which stay as they are, or plain values.
    """
    graph = module.graph
    evaluator = _Evaluator(known)
    with torch.no_grad():
        for node in graph.nodes:
            evaluator.visit(node)
    values = evaluator.values
    constants = _Constants(module)
    for node in list(graph.nodes):
        if node not in values:
            node.args = fx.map_arg(node.args, lambda arg: constants.use(arg, values))
            node.kwargs = fx.map_arg(node.kwargs, lambda arg: constants.use(arg, values))
    for node in reversed(list(values)):
        graph.erase_node(node)


_DROPPED = object()
"""In the place of a value that nothing needs any more."""


class _Evaluator:
    """Computes nodes in order; nodes that compute the same share one value.

    Attributes
    ----------
    values : dict
        Nodes whose values are known.
    """

    def __init__(self, known: dict[fx.Node, Any]) -> None:
        self.values = dict(known)
        self._computed: dict[str, fx.Node] = {}
        self._given = set(known)
        self._twin: dict[fx.Node, fx.Node] = {}

    def visit(self, node: fx.Node) -> None:
        """Compute a node if that is possible."""
        if node.op != "call_function" or node in self.values:
            return
        by_shape = _SHAPE_ONLY.get(node.target)
        if by_shape is not None:
            value = by_shape(node, self.values)
            if value is not None:
                self.values[node] = value
        elif _is_repeatable(node.target) and all(n in self.values for n in node.all_input_nodes):
            inputs = fx.map_arg((node.args, node.kwargs), lambda n: self._twin.get(n, n))
            twin = self._computed.setdefault(f"{node.target} {inputs}", node)
            self._twin[node] = twin
            shared = twin is not node and self.values[twin] is not _DROPPED
            self.values[node] = self.values[twin] if shared else self._result(node)
            self._drop(node.all_input_nodes)

    def _drop(self, inputs: list[fx.Node]) -> None:
        """Forget values that only nodes read which have been computed."""
        for node in inputs:
            if node not in self._given and all(user in self.values for user in node.users):
                self.values[node] = _DROPPED

    def _result(self, node: fx.Node) -> Any:
        args = fx.map_arg(node.args, self.values.__getitem__)
        kwargs = fx.map_arg(node.kwargs, self.values.__getitem__)
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _is_repeatable(target: Any) -> bool:
    if isinstance(target, torch._ops.HigherOrderOperator):
        return False
    if isinstance(target, torch._ops.OpOverload):
        random = torch.Tag.nondeterministic_seeded in target.tags
        return not random and not target._schema.is_mutable
    return True


def _filled(fill: Callable[[fx.Node], Any]) -> Callable[..., Any]:
    """Make the evaluator of an operator that reads only the shape of its tensor argument."""

    def value(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        result = node.meta["val"]
        number = fill(node)
        number = values.get(number, number) if isinstance(number, fx.Node) else number
        if isinstance(number, fx.Node) or not all(isinstance(d, int) for d in result.shape):
            return None
        return torch.full((), number, dtype=result.dtype).expand(result.shape)

    return value


_SHAPE_ONLY: dict[Any, Callable[..., Any]] = {
    aten.full_like.default: _filled(lambda node: node.args[1]),
    aten.ones_like.default: _filled(lambda node: 1),
    aten.zeros_like.default: _filled(lambda node: 0),
    aten.new_full.default: _filled(lambda node: node.args[2]),
    aten.new_ones.default: _filled(lambda node: 1),
    aten.new_zeros.default: _filled(lambda node: 0),
}


class _Constants:
    """The constants of a graph module, each made once."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = module
        self._made: dict[int, fx.Node] = {}
        self._first = next(iter(module.graph.nodes))

    def use(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """Return what stands for `node` in the argument of another node."""
        if node not in values:
            return node
        value = values[node]
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in self._made:
            name = f"constant_{len(self._made)}"
            self._module.register_buffer(name, value.detach(), persistent=False)
            with self._module.graph.inserting_before(self._first):
                made = self._module.graph.get_attr(name)
            made.meta["val"] = value
            self._made[id(value)] = made
        return self._made[id(value)]

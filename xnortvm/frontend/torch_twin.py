# SPDX-License-Identifier: Apache-2.0
"""Run a PyTorch model beside the compiled one, layer by layer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree

from xnortvm.frontend.torch_export import eval_mode
from xnortvm.frontend.torch_graph import InferenceGraph
from xnortvm.frontend.twin import Array, TwinRun

aten = torch.ops.aten

_LOG = logging.getLogger("xnortvm")

_PLACES = {
    aten.addmm.default: (1, 0),
    aten.baddbmm.default: (1, 0),
    aten.bmm.default: (0, None),
    aten.convolution.default: (0, 2),
    aten.matmul.default: (0, None),
    aten.mm.default: (0, None),
}
"""Where a layer's operator has its input and its bias."""

_VIEWS: dict[Any, Any] = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
}


class TorchTwin:
    """The exported graph, run by PyTorch; and the module itself, where there is one.

    Parameters
    ----------
    graph : InferenceGraph
    layers : dict of str to torch.fx.Node
    model : torch.nn.Module, optional
    arguments : (args, kwargs), optional
        Example arguments of the module or of the exported program.
    """

    framework = "PyTorch"

    def __init__(
        self,
        graph: InferenceGraph,
        layers: Mapping[str, fx.Node],
        model: torch.nn.Module | None = None,
        arguments: tuple[Any, Any] | None = None,
    ) -> None:
        self._graph = graph
        self._layers = {node: name for name, node in layers.items()}
        self._model = model
        self._arguments = arguments

    def examples(self) -> list[Array] | None:
        """Return the tensors among the example arguments."""
        if self._arguments is None:
            return None
        leaves = pytree.tree_leaves(self._arguments)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        return [_array(t) for t in tensors] if len(tensors) == len(self._graph.inputs) else None

    def cut(self, inputs: Sequence[Array], forced: Mapping[str, Array]) -> TwinRun:
        """Run the graph node by node."""
        device = self._device()
        module, given = self._graph.module, dict(zip(self._graph.inputs, inputs, strict=True))
        env: dict[fx.Node, Any] = {}
        layers: dict[str, tuple[Array, Array | None]] = {}
        last = _last_uses(module.graph)
        with torch.no_grad():
            for node in module.graph.nodes:
                if node.op == "placeholder":
                    env[node] = _tensor(given[node], device) if node in given else None
                elif node.op == "get_attr":
                    env[node] = getattr(module, node.target)
                elif node.op == "call_function":
                    env[node] = self._call(node, env, forced, layers)
                for dead in last.get(node, ()):
                    del env[dead]
            outputs = [env[v] for v in self._graph.outputs if isinstance(v, fx.Node)]
        return TwinRun([_array(value) for value in outputs], layers)

    def _call(
        self,
        node: fx.Node,
        env: dict[fx.Node, Any],
        forced: Mapping[str, Array],
        layers: dict[str, tuple[Array, Array | None]],
    ) -> Any:
        args = fx.map_arg(node.args, env.__getitem__)
        kwargs = fx.map_arg(node.kwargs, env.__getitem__)
        name = self._layers.get(node)
        if name is None:
            # Copies are gone from the graph, so what is viewed may be strided.
            target = _VIEWS.get(node.target, node.target)
            return target(*args, **kwargs)  # type: ignore[operator]
        place, bias = _PLACES[node.target]
        args, own = list(args), args[place]
        instead = forced.get(name)
        if instead is not None and instead.size == own.numel():
            args[place] = _tensor(instead, own.device).reshape(own.shape)
        result = node.target(*args, **kwargs)  # type: ignore[operator]
        layers[name] = _array(own), _without_bias(node, result, args, bias, kwargs)
        return result

    def whole(self, inputs: Sequence[Array]) -> list[Array] | None:
        """Run the module, its buffers and flags left as they are."""
        if self._model is None or self._arguments is None:
            return None
        device = self._device()
        leaves, spec = pytree.tree_flatten(self._arguments)
        values = iter(inputs)
        leaves = [
            _tensor(next(values), device) if isinstance(leaf, torch.Tensor) else leaf
            for leaf in leaves
        ]
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        try:
            with torch.no_grad(), eval_mode(self._model):
                result = torch.func.functional_call(self._model, buffers, args, kwargs)
        except Exception as error:  # what cannot be called so is compared by its graph alone
            _LOG.debug("the module cannot be run beside the compiled one: %s", error)
            return None
        tensors = [x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]
        return [_array(value) for value in tensors]

    def _device(self) -> torch.device:
        tensors = [*self._graph.module.buffers()]
        if self._model is not None:
            tensors += [*self._model.parameters(), *self._model.buffers()]
        return next((t.device for t in tensors), torch.device("cpu"))


def _without_bias(
    node: fx.Node, result: Any, args: list[Any], bias: int | None, kwargs: Mapping[str, Any]
) -> Array | None:
    """Return the product alone; None where it is scaled, too."""
    if any(kwargs.get(name, 1) != 1 for name in ("alpha", "beta")):
        return None
    value = None if bias is None else args[bias]
    if value is None:
        return _array(result)
    if node.target is aten.convolution.default:
        value = value.reshape(-1, *(1,) * (result.dim() - 2))
    return _array(result - value)


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        last.update((used, node) for used in node.all_input_nodes)
    dead: dict[fx.Node, list[fx.Node]] = {}
    for used, node in last.items():
        if node.op != "output":
            dead.setdefault(node, []).append(used)
    return dead


def _array(value: torch.Tensor) -> Array:
    value = value.detach().cpu()
    if value.dtype is torch.bfloat16:  # NumPy has none
        value = value.float()
    array: Array = value.contiguous().numpy()
    return array


def _tensor(value: Array, device: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(value)).to(device)

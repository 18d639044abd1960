# SPDX-License-Identifier: Apache-2.0
"""``torch.compile(model, backend="xnortvm")``: for inference, on graphs with fixed shapes.

PyTorch hands over parameters and buffers as inputs of the graph. Binary weights are packed at
compile time, so they are bound here; a parameter that is changed later is not seen.
Nothing falls back to eager in silence: what cannot be compiled raises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from xnortvm.errors import ModelError


def backend(
    gm: torch.fx.GraphModule, example_inputs: Sequence[Any], **options: Any
) -> Callable[..., Any]:
    """Compile a graph that TorchDynamo captured.

    Parameters
    ----------
    gm : torch.fx.GraphModule
        The graph.
    example_inputs : sequence
        One value for each placeholder, parameters and buffers included.
    **options
        What ``torch.compile(options=...)`` holds: keyword arguments of `xnortvm.compile`, such
        as ``target`` and ``num_threads``.

    Returns
    -------
    callable
        Takes the same arguments as the graph, returns what it returns.

    Raises
    ------
    ModelError
        For dynamic shapes, and when gradients are wanted.
    XnortvmError
        When the graph cannot be compiled.

    Examples
    --------
    >>> fast = torch.compile(model.eval(), backend="xnortvm")  # doctest: +SKIP
    >>> with torch.inference_mode():  # doctest: +SKIP
    ...     y = fast(x)
    """
    from xnortvm.api import compile as compile_model

    if torch.is_grad_enabled() and any(_wants_gradient(value) for value in example_inputs):
        raise ModelError(
            "the xnortvm backend is for inference and gradients are switched on; "
            "call the compiled model under torch.inference_mode() or torch.no_grad()"
        )
    bound, kept = _bind_state(gm, example_inputs)
    examples = tuple(example_inputs[position] for position in kept)
    if any(not isinstance(value, torch.Tensor) for value in examples):
        raise ModelError(
            "the xnortvm backend needs fixed shapes and this graph has a size as an input; "
            "use torch.compile(..., dynamic=False)"
        )
    if not examples:
        raise ModelError("the graph has no input, so there is nothing to compile")
    compiled = compile_model(bound, example_inputs=examples, **options.get("options", options))

    def run(*values: Any) -> tuple[Any, ...]:
        result = compiled(*(values[position].detach() for position in kept))
        return result if isinstance(result, tuple) else (result,)

    return run


def _wants_gradient(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _is_state(value: Any) -> bool:
    """Tell parameters and buffers of the user's module from inputs."""
    return isinstance(value, torch.nn.Parameter) or hasattr(value, "_dynamo_static_input_type")


def _bind_state(
    gm: torch.fx.GraphModule, example_inputs: Sequence[Any]
) -> tuple[torch.fx.GraphModule, list[int]]:
    """Turn placeholders of parameters and buffers into attributes of a copy of the graph.

    Returns
    -------
    bound : torch.fx.GraphModule
        The copy, in evaluation mode.
    kept : list of int
        Positions of the placeholders that are left.
    """
    graph = torch.fx.Graph()
    values: dict[torch.fx.Node, torch.fx.Node] = {}
    output = graph.graph_copy(gm.graph, values)
    graph.output(output)
    bound = torch.fx.GraphModule(gm, graph)
    kept = []
    placeholders = [node for node in gm.graph.nodes if node.op == "placeholder"]
    for position, (node, value) in enumerate(zip(placeholders, example_inputs, strict=True)):
        if not _is_state(value):
            kept.append(position)
            continue
        name = f"state_{position}"
        bound.register_buffer(name, value.detach())
        copy = values[node]
        with graph.inserting_before(copy):
            copy.replace_all_uses_with(graph.get_attr(name))
        graph.erase_node(copy)
    bound.recompile()
    return bound.eval(), kept

# SPDX-License-Identifier: Apache-2.0
"""An exported program made ready for import: functional, in inference mode, weights evaluated.

Every node that depends on parameters alone is computed here, on real values and by PyTorch itself:
``sign(W)``, mean-abs scaling, standardised or rotated weights, ``.item()`` chains. Whatever their
spelling, the graph that is left takes the user's inputs and reads constants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ConstantArgument,
    InputKind,
    InputSpec,
    OutputKind,
    TensorArgument,
)

from xnortvm.errors import ModelError, UnsupportedOperatorError
from xnortvm.frontend.torch_cleanup import CLEANUPS
from xnortvm.frontend.torch_constants import evaluate
from xnortvm.frontend.torch_export import WRITING
from xnortvm.frontend.torch_names import where
from xnortvm.frontend.torch_rewrites import rewrite_operators

aten = torch.ops.aten


@dataclass(frozen=True)
class InferenceGraph:
    """The graph of a model in inference mode.

    Parameters
    ----------
    module : torch.fx.GraphModule
        Called with the tensor inputs, it returns the flat outputs; constants are attributes.
    inputs : tuple of torch.fx.Node
        Placeholders, one per tensor input.
    outputs : tuple of torch.fx.Node, number or None
        One per leaf of what the user's model returns.
    ranges : dict
        Symbol of a dynamic dimension to its lower and upper bound (None: no bound).
    """

    module: fx.GraphModule
    inputs: tuple[fx.Node, ...]
    outputs: tuple[Any, ...]
    ranges: dict[str, tuple[int, int | None]]


def inference_graph(program: ExportedProgram) -> InferenceGraph:
    """Decompose a program, check that it is stateless inference, and evaluate its constants.

    Parameters
    ----------
    program : torch.export.ExportedProgram
        Decomposed or not. It is not changed.

    Returns
    -------
    InferenceGraph

    Raises
    ------
    ModelError
        If the program was exported in training mode, keeps state between calls, or has inputs that
        are neither tensors nor plain values.
    """
    _refuse_writes(program.graph)
    program = program.run_decompositions(_decompositions())
    module = program.graph_module
    graph = module.graph
    _refuse_randomness(graph)
    inputs, known = _placeholders(program)
    output = next(iter(graph.find_nodes(op="output")))
    _refuse_state(program, output)
    output.args = (_user_outputs(program, output),)
    graph.eliminate_dead_code(_is_interface)
    rewrite_operators(module)
    evaluate(module, known)
    for cleanup in CLEANUPS:
        cleanup(graph)
    graph.eliminate_dead_code(_is_interface)
    symbols = _input_symbols(inputs)
    for node in graph.nodes:
        _refuse_odd_tensors(node, symbols)
    graph.set_codegen(fx.graph.CodeGen())
    module.recompile()
    return InferenceGraph(module, inputs, tuple(output.args[0]), _ranges(program, symbols))


def _decompositions() -> dict[Any, Any]:
    """PyTorch's own, but for operators whose parts say less than their name."""
    table = torch.export.default_decompositions()
    return {op: rule for op, rule in table.items() if op is not aten.col2im.default}


def _is_interface(node: fx.Node) -> bool:
    return node.op in {"placeholder", "output"}


def _placeholders(program: ExportedProgram) -> tuple[tuple[fx.Node, ...], dict[fx.Node, Any]]:
    nodes = program.graph.find_nodes(op="placeholder")
    inputs: list[fx.Node] = []
    known: dict[fx.Node, Any] = {}
    for node, spec in zip(nodes, program.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument):
            inputs.append(node)
        else:
            known[node] = _known_value(program, spec)
    return tuple(inputs), known


def _known_value(program: ExportedProgram, spec: InputSpec) -> Any:
    if isinstance(spec.arg, ConstantArgument):
        return spec.arg.value
    if spec.kind is InputKind.TOKEN:  # orders checks of values, such as for singular matrices
        return None
    if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
        for table in (program.state_dict, program.constants):
            if spec.target in table:
                return table[spec.target]
    raise ModelError(
        f"input {spec.arg.name!r} of the exported program is a {type(spec.arg).__name__} "
        f"({spec.kind.name.lower()}), and a compiled model takes tensors only; pass it as a tensor "
        "or fix its value before torch.export"
    )


_USER_OUTPUTS = (OutputKind.USER_OUTPUT, OutputKind.LOSS_OUTPUT)


def _user_outputs(program: ExportedProgram, output: fx.Node) -> tuple[Any, ...]:
    specs = program.graph_signature.output_specs
    return tuple(
        value
        for value, spec in zip(output.args[0], specs, strict=True)
        if spec.kind in _USER_OUTPUTS
    )


_RANDOM_BY_TRAINING = {
    aten._native_batch_norm_legit.default,
    aten._native_batch_norm_legit_functional.default,
    aten.bernoulli.p,
    aten.native_dropout.default,
}
"""What batch norm and dropout decompose to in training mode."""


def _refuse_randomness(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node.target in _RANDOM_BY_TRAINING and not _is_idle_dropout(node):
            raise ModelError(
                f"the program was exported in training mode: {node.target} {where(node)} uses "
                "batch statistics or random numbers; call model.eval() before torch.export"
            )
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise ModelError(
                f"{node.target} {where(node)} draws random numbers, and a compiled model computes "
                "the same for the same input; pass the random tensor as an input"
            )


def _refuse_writes(graph: fx.Graph) -> None:
    """Refuse ``tensor.data = ...``: the assignment is lost, only a check before it is exported."""
    for node in graph.nodes:
        if node.target is aten._has_compatible_shallow_copy_type.default:
            raise ModelError(f"the model assigns to the .data of a tensor {where(node)}, {WRITING}")


def _is_idle_dropout(node: fx.Node) -> bool:
    return node.target is aten.native_dropout.default and node.args[2] is False


def _refuse_state(program: ExportedProgram, output: fx.Node) -> None:
    """Refuse results that depend on a buffer that the program also changes."""
    signature = program.graph_signature
    changed = {
        spec.target: spec.kind
        for spec in signature.output_specs
        if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)
    }
    if not changed:
        return
    needed = _ancestors(_user_outputs(program, output))
    nodes = program.graph.find_nodes(op="placeholder")
    for node, spec in zip(nodes, signature.input_specs, strict=True):
        if spec.target in changed and node in needed:
            if changed[spec.target] is OutputKind.PARAMETER_MUTATION:
                raise ModelError(
                    f"the model changes its own parameter {spec.target!r} when it runs, and a "
                    "compiled model keeps no state between calls; compute the new value as a "
                    "tensor of its own, such as F.conv2d(x, self.weight.sign())"
                )
            raise ModelError(
                f"the model changes its own buffer {spec.target!r} when it runs and also computes "
                "with it, and a compiled model keeps no state between calls; leave the update out "
                "in eval mode"
            )


def _ancestors(values: Any) -> set[fx.Node]:
    found: set[fx.Node] = set()
    todo = [value for value in values if isinstance(value, fx.Node)]
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo.extend(node.all_input_nodes)
    return found


def _input_symbols(inputs: tuple[fx.Node, ...]) -> set[Any]:
    return {symbol for node in inputs for symbol in _symbols(node)}


def _symbols(node: fx.Node) -> set[Any]:
    """Symbols in the shape of a tensor."""
    value = node.meta.get("val")
    shape = value.shape if isinstance(value, torch.Tensor) else ()
    dynamic = [extent for extent in shape if not isinstance(extent, int)]
    return {symbol for extent in dynamic for symbol in extent.node.expr.free_symbols}


PRODUCTS = {
    aten.addmm.default: slice(1, 3),
    aten.baddbmm.default: slice(1, 3),
    aten.bmm.default: slice(0, 2),
    aten.convolution.default: slice(0, 2),
    aten.matmul.default: slice(0, 2),
    aten.mm.default: slice(0, 2),
}
"""Operators that are layers, and where their two factors stand among the arguments."""


def _refuse_odd_tensors(node: fx.Node, symbols: set[Any]) -> None:
    """Refuse what torch.export lets pass and cannot run, or not at a fixed size."""
    if not _symbols(node) <= symbols:
        raise UnsupportedOperatorError(
            f"{node.target} {where(node)} makes a tensor whose size depends on values, and a "
            "compiled model has fixed shapes; use torch.where instead of a boolean mask"
        )
    if node.target in PRODUCTS:
        factors = node.args[PRODUCTS[node.target]]
        dtypes = [str(factor.meta["val"].dtype).removeprefix("torch.") for factor in factors]
        if len(set(dtypes)) > 1:
            raise ModelError(
                f"{node.target} {where(node)} multiplies {' by '.join(dtypes)}, which PyTorch does "
                "not do; pass inputs of the dtype that the model was made for"
            )


def _ranges(program: ExportedProgram, symbols: set[Any]) -> dict[str, tuple[int, int | None]]:
    ranges = {}
    for symbol, bounds in program.range_constraints.items():
        if symbol in symbols:
            upper = None if math.isinf(float(bounds.upper)) else int(bounds.upper)
            ranges[str(symbol)] = (int(bounds.lower), upper)
    return ranges

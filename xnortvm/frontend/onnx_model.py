# SPDX-License-Identifier: Apache-2.0
"""ONNX files and models to Relax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper, helper, inliner

from xnortvm.errors import ModelError
from xnortvm.frontend.finish import finish
from xnortvm.frontend.imported import Imported
from xnortvm.frontend.messages import first_line
from xnortvm.frontend.onnx_fold import fold
from xnortvm.frontend.onnx_graph import OnnxGraph, extents
from xnortvm.frontend.onnx_qonnx import DOMAINS, lower_quantisers
from xnortvm.frontend.onnx_relax import OnnxTranslator
from xnortvm.frontend.onnx_rewrites import rewrite_nodes
from xnortvm.frontend.onnx_twin import OnnxTwin
from xnortvm.frontend.shapes import refuse_dynamic


def import_file(path: Path, example_inputs: Any = None, dynamic_batch: bool = False) -> Imported:
    """Import an ``.onnx`` file, with its external data if it has any."""
    return _import(lambda: _load(path), str(path), example_inputs, dynamic_batch, path)


def import_proto(model: Any, example_inputs: Any = None, dynamic_batch: bool = False) -> Imported:
    """Import a model in memory; it is not changed."""
    for tensor in model.graph.initializer:
        if external_data_helper.uses_external_data(tensor):
            raise ModelError(
                f"the ONNX model's tensor {tensor.name!r} lies in another file that is not loaded; "
                "pass the path of the .onnx file instead, or load the model with its external data"
            )
    return _import(lambda: model, "the ONNX model", example_inputs, dynamic_batch, model)


def _import(
    read: Callable[[], Any], what: str, example_inputs: Any, dynamic_batch: bool, source: Any
) -> Imported:
    def make() -> OnnxGraph:  # nobody else holds a model that was read from a file
        return _folded(read(), what, example_inputs, dynamic_batch)

    graph = make()
    for value in graph.inputs:
        shape = extents(value)
        if shape is None:
            raise ModelError(
                f"input {value.name!r} of {what} has no shape; export it with one, or pass "
                "example_inputs"
            )
        refuse_dynamic(value.name, shape)
    translator = OnnxTranslator(graph)
    outputs = tuple(str(value.name) for value in graph.outputs)
    structure = outputs[0] if len(outputs) == 1 else outputs
    inputs = tuple(str(value.name) for value in graph.inputs)
    mod = translator.translate()
    layers = {name: str(node.output[0]) for name, node in translator.layers.items()}
    sources = translator.sources
    del translator, graph  # the arrays; the module has its own

    mod = finish(mod)
    twin = OnnxTwin(make, layers, source, _arrays(example_inputs))
    return Imported(mod, inputs, outputs, structure, "onnx", sources, twin=twin)


def _folded(model: Any, what: str, example_inputs: Any, dynamic_batch: bool) -> OnnxGraph:
    """Check a model and evaluate what does not depend on its inputs."""
    _check(model, what)
    if model.functions:  # inlining copies a model several times, so without its weights
        inlined = inliner.inline_local_functions(_without_weights(model))
        graph = OnnxGraph.of(inlined, model.graph)
    else:
        graph = OnnxGraph.of(model)
    del model
    _fix_shapes(graph, example_inputs, dynamic_batch)
    try:
        fold(graph)
        graph.nodes = lower_quantisers(graph.nodes, graph.constants)
        if DOMAINS.intersection(graph.opsets):
            fold(graph)
        rewrite_nodes(graph)
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(
            f"shape inference fails on {what}: {first_line(error)}; check the input shapes and "
            "export the model again"
        ) from error
    return graph


def _load(path: Path) -> Any:
    size = path.stat().st_size
    if size == 0:
        raise ModelError(f"{path} is empty; export the model again")
    try:
        return onnx.load(path)
    except DecodeError as error:
        raise ModelError(
            f"{path} is not an ONNX model or is damaged ({size} bytes that do not parse); export "
            "it again, or copy it again if it was truncated"
        ) from error
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"the external data of {path} cannot be read: {first_line(error)}; keep the data file "
            "beside the .onnx file"
        ) from error


def _check(model: Any, what: str) -> None:
    if not model.graph.node or not model.graph.output:
        raise ModelError(
            f"{what} holds no graph ({len(model.graph.node)} nodes, {len(model.graph.output)} "
            "outputs); it is not an ONNX model, or it is damaged: export it again"
        )
    try:
        onnx.checker.check_model(_without_weights(model))
    except onnx.checker.ValidationError as error:
        if "Field 'shape' of 'type'" in str(error):
            return  # shapes of outputs are inferred, and inputs are checked later
        raise ModelError(
            f"{what} is not valid ONNX: {first_line(error)}; export it again"
        ) from error


def _without_weights(model: Any) -> Any:
    """Return a copy for the checker, which would copy the weights twice: they become inputs."""
    bare = onnx.ModelProto()
    for descriptor, value in model.ListFields():
        if descriptor.name != "graph":
            _copy(bare, descriptor, value)
    for descriptor, value in model.graph.ListFields():
        if descriptor.name not in ("initializer", "sparse_initializer"):
            _copy(bare.graph, descriptor, value)
    inputs = {value.name for value in model.graph.input}
    weights = [(t.name, t.data_type, t.dims) for t in model.graph.initializer]
    weights += [(s.values.name, s.values.data_type, s.dims) for s in model.graph.sparse_initializer]
    bare.graph.input.extend(
        helper.make_tensor_value_info(name, dtype, list(dims))
        for name, dtype, dims in weights
        if name not in inputs
    )
    return bare


def _copy(message: Any, descriptor: Any, value: Any) -> None:
    """Set a field of a message."""
    target = getattr(message, descriptor.name)
    if hasattr(target, "MergeFrom"):  # repeated fields and messages
        target.MergeFrom(value)
    else:
        setattr(message, descriptor.name, value)


def _arrays(example_inputs: Any) -> list[Any] | None:
    if example_inputs is None:
        return None
    given = example_inputs if isinstance(example_inputs, Sequence) else (example_inputs,)
    return [np.asarray(value) for value in given]


def _fix_shapes(graph: OnnxGraph, example_inputs: Any, dynamic_batch: bool) -> None:
    """Give the inputs the shapes of the examples, a dynamic batch apart."""
    if example_inputs is None:
        return
    if not isinstance(example_inputs, Sequence):
        example_inputs = (example_inputs,)
    names = [value.name for value in graph.inputs]
    if len(example_inputs) != len(names):
        raise ModelError(
            f"example_inputs has {len(example_inputs)} values and the ONNX model has "
            f"{len(names)} inputs ({', '.join(names)}); pass one array per input"
        )
    graph.inputs = [
        _with_shape(value, np.asarray(example), dynamic_batch)
        for value, example in zip(graph.inputs, example_inputs, strict=True)
    ]


def _with_shape(value: Any, example: Any, dynamic_batch: bool) -> Any:
    declared = value.type.tensor_type.elem_type
    dtype = helper.tensor_dtype_to_np_dtype(declared)
    shape = extents(value)
    fits = shape is None or (
        len(shape) == example.ndim
        and all(
            not isinstance(extent, int) or extent == given
            for extent, given in zip(shape, example.shape, strict=True)
        )
    )
    if not fits or example.dtype != dtype:
        raise ModelError(
            f"the example for input {value.name!r} is {example.dtype}{list(example.shape)} and the "
            f"ONNX model takes {dtype}{list(shape or ())}; pass an array of that shape and dtype"
        )
    wanted: list[Any] = list(example.shape)
    if dynamic_batch and shape:
        wanted[0] = shape[0]
    return helper.make_tensor_value_info(value.name, declared, wanted)

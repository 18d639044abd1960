# SPDX-License-Identifier: Apache-2.0
"""PyTorch modules, exported programs and ``.pt2`` files to Relax."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from xnortvm.errors import ModelError, UnsupportedOperatorError, XnortvmError
from xnortvm.frontend.finish import finish
from xnortvm.frontend.imported import STATIC, Dynamic, Imported, Kind
from xnortvm.frontend.messages import first_line
from xnortvm.frontend.shapes import refuse_dynamic
from xnortvm.frontend.sources import innermost
from xnortvm.frontend.torch_checks import refuse_empty, unwrapped
from xnortvm.frontend.torch_export import export_module
from xnortvm.frontend.torch_graph import inference_graph
from xnortvm.frontend.torch_outputs import output_structure
from xnortvm.frontend.torch_relax import GraphTranslator
from xnortvm.frontend.torch_twin import TorchTwin


def import_module(
    model: torch.nn.Module, example_inputs: Any, dynamic: Dynamic = STATIC
) -> Imported:
    """Export a module in eval mode and import it."""
    model = unwrapped(model)
    with _quiet():
        program = export_module(model, example_inputs, dynamic)
    return import_program(program, kind="torch", model=model)


def import_program(
    program: ExportedProgram, kind: Kind = "exported", model: torch.nn.Module | None = None
) -> Imported:
    """Import an exported program, decomposed or not.

    Raises
    ------
    ModelError
        If it cannot be imported, with the layer and the line of the user's code.
    """
    with _quiet():
        try:
            graph = inference_graph(program)
        except XnortvmError:
            raise
        except Exception as error:  # a program of another PyTorch, or one changed by hand
            raise _undecomposed(error) from error
        for node in graph.inputs:
            refuse_dynamic(str(node.name), node.meta["val"].shape)
            refuse_empty(str(node.name), node.meta["val"].shape)
        if not any(isinstance(value, torch.fx.Node) for value in graph.outputs):
            raise ModelError("the model returns no tensor, so there is nothing to compile")
        translator = GraphTranslator(graph)
        mod = finish(translator.translate())
    structure, output_names = output_structure(program.call_spec.out_spec, graph.outputs)
    input_names = tuple(str(node.name) for node in graph.inputs)
    twin = TorchTwin(graph, translator.layers, model, program.example_inputs)
    return Imported(mod, input_names, output_names, structure, kind, translator.sources, twin=twin)


def _undecomposed(error: Exception) -> ModelError:
    if "data-dependent" in str(error):
        line = innermost(str(error))
        return UnsupportedOperatorError(
            f"the model makes a tensor whose size depends on values{f' ({line})' if line else ''}, "
            "and a compiled model has fixed shapes; use torch.where instead of a boolean mask"
        )
    return ModelError(
        f"PyTorch {torch.__version__} cannot decompose the exported program: {first_line(error)}; "
        "export it again with this version"
    )


def import_pt2(path: Path) -> Imported:
    """Import a ``.pt2`` file.

    Raises
    ------
    ModelError
        If it is not an exported program.
    """
    return import_program(_load(path))


_WRITE = "write it with torch.export.save(torch.export.export(model, inputs), path)"


def _load(path: Path) -> ExportedProgram:
    if not zipfile.is_zipfile(path):
        size = path.stat().st_size
        what = f"{size} bytes that are no zip archive" if size else "empty"
        raise ModelError(f"{path} is not an exported program, it is {what}; {_WRITE}")
    with _quiet():
        try:
            return torch.export.load(path)
        except Exception as error:  # a damaged archive ends in any kind of exception
            raise ModelError(
                f"PyTorch {torch.__version__} cannot read {path}: {first_line(error)}; {_WRITE}"
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

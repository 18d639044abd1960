# SPDX-License-Identifier: Apache-2.0
"""A PyTorch module to an exported program, and in words why not."""

from __future__ import annotations

import copy
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from xnortvm.errors import ModelError
from xnortvm.frontend.imported import STATIC, Dynamic
from xnortvm.frontend.messages import first_line
from xnortvm.frontend.sources import user_lines
from xnortvm.frontend.torch_batch import fixed_batch, open_batch
from xnortvm.frontend.torch_checks import SLICE, export_hint
from xnortvm.frontend.torch_data import DataWrites
from xnortvm.frontend.torch_scalars import known_scalars

_HELP = (
    "what usually helps: no branches on tensor values, no changes of parameters, no .numpy() and "
    "no print in forward; torch.export.export(model, inputs) gives PyTorch's own report"
)


DATA = "fake tensor in the exported program constant's list"
"""What torch.export says when a forward reads or writes ``tensor.data``."""

WRITING = (
    "which torch.export does not record; compute the new value as a tensor of its own, such as "
    "F.conv2d(x, self.weight.sign())"
)
"""What is wrong with ``self.weight.data = ...`` in forward, and what to do."""


def export_module(
    model: torch.nn.Module, example_inputs: Any, dynamic: Dynamic = STATIC
) -> ExportedProgram:
    """Export a module in eval mode, whatever mode it is in.

    Parameters
    ----------
    model : torch.nn.Module
        Neither its parameters nor its training flags change.
    example_inputs : tensor, or tuple or list of tensors
        Positional arguments of ``model.forward``. NumPy arrays do as well.
    dynamic : Dynamic
        Dimensions that the program is to leave open.

    Raises
    ------
    ModelError
        If the inputs do not fit the model or PyTorch cannot export it, with the line of the user's
        code where that happened.
    """
    inputs = _example_tuple(model, example_inputs)
    shapes = dynamic.shapes
    if dynamic.batch:
        if shapes is not None:
            raise ModelError("dynamic_batch and dynamic_shapes are both given; pass one of them")
        inputs, shapes = open_batch(model.forward, inputs)
    try:
        return _exported(model, inputs, shapes)
    except Exception as error:  # torch.export lets through whatever a model raises
        raise _explained(model, inputs, error) from error


def _exported(model: torch.nn.Module, inputs: tuple[Any, ...], shapes: Any) -> ExportedProgram:
    """Export by tracing the calls, and where that is known to fall over something, again."""
    try:
        with eval_mode(model):
            return torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)
    except (TypeError, RuntimeError) as error:
        again = next((way for text, way in _AGAIN.items() if text in str(error)), None)
        if again is None:
            raise
        tracing = error
    way, strict = again
    try:
        with eval_mode(model), way(model):
            return torch.export.export(model, inputs, dynamic_shapes=shapes, strict=strict)
    except Exception:  # the way round has refusals of its own, which would only mislead
        raise tracing from None


@contextmanager
def _values(model: torch.nn.Module) -> Iterator[None]:
    """Know what parameters of one element hold, and what is written to ``tensor.data``."""
    with known_scalars(model), DataWrites():
        yield


#: What tracing falls over → a context, and whether to read the bytecode instead. Of a list in a
#: module that is called twice, torch 2.13 makes its stand-in for a slice without the arguments
#: that it needs.
_AGAIN: dict[str, tuple[Callable[[torch.nn.Module], AbstractContextManager[Any]], bool]] = {
    DATA: (_values, False),
    "Could not guard on data-dependent expression": (_values, False),
    SLICE: (nullcontext, True),
}


def _example_tuple(model: torch.nn.Module, example_inputs: Any) -> tuple[Any, ...]:
    signature = f"{type(model).__name__}.forward{inspect.signature(model.forward)}"
    if example_inputs is None:
        raise ModelError(
            f"example_inputs is missing: {signature} needs one tensor per argument, such as "
            "example_inputs=(torch.randn(1, 3, 224, 224),)"
        )
    if isinstance(example_inputs, torch.Tensor | np.ndarray):
        example_inputs = (example_inputs,)
    if isinstance(example_inputs, Mapping | str) or not isinstance(example_inputs, Sequence):
        raise ModelError(
            f"example_inputs is a {type(example_inputs).__name__}; pass a tuple with one tensor "
            f"per argument of {signature}"
        )
    inputs = tuple(
        torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for value in example_inputs
    )
    try:
        inspect.signature(model.forward).bind(*inputs)
    except TypeError as error:
        raise ModelError(
            f"example_inputs has {len(inputs)} values, which {signature} does not take ({error}); "
            "pass one tensor per argument"
        ) from error
    return inputs


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Put a module into eval mode, and at the end everything back that a forward may write to.

    Under torch.export a forward that assigns to ``weight.data`` or to an attribute leaves tensors
    without values behind, and the user's module would be broken.
    """
    modules = list(model.modules())
    attributes = [(module, _members(module)) for module in modules]
    tensors = [*model.parameters(), *model.buffers()]
    contents = [(tensor, tensor.data, dict(tensor.__dict__)) for tensor in tensors]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, members in attributes:
            for name, saved in members.items():
                current = module.__dict__ if name == "__dict__" else module.__dict__[name]
                current.clear()
                current.update(saved)
        for tensor, data, members in contents:
            tensor.data = data
            tensor.__dict__.clear()
            tensor.__dict__.update(members)


def _members(module: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """Copy the dictionaries of a module: its attributes first, then those inside of them."""
    members = {"__dict__": dict(module.__dict__)}
    for name in ("_parameters", "_buffers", "_modules"):
        members[name] = dict(module.__dict__[name])
    return members


def _explained(model: torch.nn.Module, inputs: tuple[Any, ...], error: Exception) -> ModelError:
    """Tell inputs that do not fit the model from a model that cannot be exported."""
    name = type(model).__name__
    eager = _eager_error(model, inputs)
    if eager is not None:
        described = ", ".join(_describe(value) for value in inputs)
        return ModelError(
            f"{name} does not run on example_inputs ({described}){_place(eager)}: "
            f"{first_line(eager)}; pass inputs of the shape and dtype that the model was made for"
        )
    if DATA in str(error):
        return ModelError(f"{name}.forward writes to a tensor through .data, {WRITING}")
    fixed = fixed_batch(name, _place(error), error)
    if fixed is not None:
        return fixed
    hint = export_hint(error)
    if hint is not None:
        return ModelError(f"torch.export cannot export {name}: {hint}")
    return ModelError(
        f"torch.export cannot export {name}{_place(error)}: {first_line(error)}; {_HELP}"
    )


def _eager_error(model: torch.nn.Module, inputs: tuple[Any, ...]) -> Exception | None:
    """Run a copy of the model; return what it raises."""
    try:
        twin = copy.deepcopy(model)
    except Exception:  # modules may hold anything, and what cannot be copied cannot be tried
        return None
    try:
        with torch.no_grad(), eval_mode(twin):
            twin(*inputs)
    except Exception as error:  # whatever the model raises
        return error
    return None


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(map(str, value.shape))}]"
    return type(value).__name__


def _place(error: BaseException) -> str:
    """Name the innermost line of the user's code in a traceback or in the text of an error."""
    own = str(Path(__file__).parent)
    text = "".join(traceback.format_tb(error.__traceback__))
    for trace in (text, str(error)):
        lines = [line for line in user_lines(trace) if not line.file.startswith(own)]
        if lines:
            return f" at {lines[-1].file}:{lines[-1].line} ({lines[-1].code})"
    return ""

# SPDX-License-Identifier: Apache-2.0
"""`import_model`: any kind of model to Relax."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NamedTuple

from xnortvm.errors import MissingDependencyError, ModelError, near
from xnortvm.frontend.imported import Dynamic, Imported


class _Reader(NamedTuple):
    """How one kind of model is imported: ``module.function(model[, example_inputs])``."""

    module: str
    function: str
    needs: str
    takes_examples: bool


_SUFFIXES = {
    ".pt2": _Reader("torch_model", "import_pt2", "torch", False),
    ".onnx": _Reader("onnx_model", "import_file", "onnx", True),
}
"""Files by suffix."""

_CLASSES = {
    "torch.nn.modules.module.Module": _Reader("torch_model", "import_module", "torch", True),
    "torch.export.exported_program.ExportedProgram": _Reader(
        "torch_model", "import_program", "torch", False
    ),
    "onnx.onnx_ml_pb2.ModelProto": _Reader("onnx_model", "import_proto", "onnx", True),
    "tvm.ir.module.IRModule": _Reader("relax_model", "import_relax", "tvm", False),
}
"""Objects by the full name of one of their classes, so that no package is loaded to find out."""

_KNOWN = (
    "a torch.nn.Module, a torch.export.ExportedProgram, a path to a .pt2 or .onnx file, an "
    "onnx.ModelProto, or a Relax IRModule"
)


def import_model(
    model: Any,
    example_inputs: Any = None,
    *,
    dynamic_batch: bool = False,
    dynamic_shapes: Any = None,
) -> Imported:
    """Bring a model into Relax, its parameters as constants and computed weights evaluated.

    Parameters
    ----------
    model : torch.nn.Module, ExportedProgram, str or Path, onnx.ModelProto, or IRModule
        A path leads to a ``.pt2`` or ``.onnx`` file. The model is not changed.
    example_inputs : tensor, or tuple or list of tensors
        Needed for a ``torch.nn.Module``: positional arguments of its forward. For ONNX they fix
        dynamic input shapes. Other kinds of models have their shapes and need none.
    dynamic_batch : bool
        Keep dimension 0 of the inputs open: of a module by exporting it so, of an ONNX model
        although examples are given. Models that were exported with a fixed batch are refused.
    dynamic_shapes : optional
        Of a ``torch.nn.Module``: handed to ``torch.export.export``.

    Returns
    -------
    Imported

    Raises
    ------
    ModelError
        If the model cannot be read or imported; the message says where and what to do.
    UnsupportedOperatorError
        If it holds operators that TVM cannot import.
    MissingDependencyError
        If the package that reads this kind of model is not installed.

    Examples
    --------
    >>> import torch
    >>> imported = import_model(torch.nn.Linear(8, 4), (torch.zeros(1, 8),))
    >>> imported.input_names, imported.output_names
    (('input',), ('output',))
    """
    if isinstance(model, str | Path):
        reader, model = _file_reader(Path(model))
    else:
        reader = _object_reader(model)
    try:
        importlib.import_module(reader.needs)
    except ImportError as error:
        raise MissingDependencyError(
            f"reading this model needs the package {reader.needs}, which cannot be imported "
            f'({error}); run: pip install "xnortvm[{reader.needs}]"'
        ) from error
    function = getattr(
        importlib.import_module(f"xnortvm.frontend.{reader.module}"), reader.function
    )
    arguments: list[Any] = [model, example_inputs] if reader.takes_examples else [model]
    if reader.function == "import_module":
        arguments.append(Dynamic(dynamic_batch, dynamic_shapes))
    elif dynamic_shapes is not None:
        raise ModelError(
            "dynamic_shapes is for a torch.nn.Module, and this model has been exported already; "
            "pass it to the export"
        )
    elif reader.takes_examples:
        arguments.append(dynamic_batch)
    imported: Imported = function(*arguments)
    if dynamic_batch and not _is_dynamic(imported):
        raise ModelError(
            "dynamic_batch=True, and the model was exported with a fixed batch; export it again "
            'with dynamic_shapes={"x": {0: torch.export.Dim("batch")}} (dynamic_axes in older '
            "ONNX exporters), or pass the torch.nn.Module"
        )
    return imported


def _is_dynamic(imported: Imported) -> bool:
    from xnortvm.frontend.shapes import has_dynamic_batch  # loads TVM, as the reader has done

    return has_dynamic_batch(imported)


def _file_reader(path: Path) -> tuple[_Reader, Path]:
    if path.suffix not in _SUFFIXES:
        kind = f"the suffix {path.suffix!r}" if path.suffix else "no suffix"
        raise ModelError(
            f"{path} has {kind} and models are read from {' and '.join(_SUFFIXES)} files"
            f"{near(path.suffix, _SUFFIXES)}; pass a torch.nn.Module as an object, or save it with "
            "torch.export.save"
        )
    if path.is_dir():
        raise ModelError(f"{path} is a folder; pass the path of the model file in it")
    if not path.is_file():
        folder = path.parent
        beside = (
            near(path.name, (other.name for other in folder.iterdir())) if folder.is_dir() else ""
        )
        raise ModelError(f"there is no file {path}{beside or '; check the path'}")
    return _SUFFIXES[path.suffix], path


def _object_reader(model: Any) -> _Reader:
    for cls in type(model).__mro__:
        reader = _CLASSES.get(f"{cls.__module__}.{cls.__qualname__}")
        if reader is not None:
            return reader
    raise ModelError(f"cannot read a model from a {type(model).__qualname__}; pass {_KNOWN}")

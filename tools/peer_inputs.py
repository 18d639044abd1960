# SPDX-License-Identifier: Apache-2.0
"""The model in the forms that engines read, written into a folder when first asked for."""

from __future__ import annotations

import importlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xnortvm.errors import MissingDependencyError, ModelError
from xnortvm.tools.model_arg import Source


class PeerInputs:
    """A folder with what the engines read; each form is made at most once.

    Parameters
    ----------
    folder : Path
        Empty, and kept until the engines have ended.
    source : Source
        The model that was compiled; engines never get another export of it.
    inputs : sequence of ndarray
        What it is run on.
    target : str
        What engines that compile should compile for.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        inputs: Sequence[np.ndarray[Any, Any]],
        target: str = "llvm",
    ) -> None:
        self.folder, self.source, self.target = folder, source, target
        np.savez(folder / "inputs.npz", *inputs)
        self._made: set[str] = set()

    def make(self, form: str) -> None:
        """Write one of `FORMS`.

        Raises
        ------
        ModelError
            When the model has no such form.
        MissingDependencyError
            When a package is missing that writes it.
        """
        if form not in self._made:
            FORMS[form](self)
            self._made.add(form)

    @cached_property
    def imported(self) -> Any:
        """The model in Relax; of a dynamic batch, what happens to one sample."""
        from xnortvm.frontend import import_model
        from xnortvm.frontend.batch import one_sample

        return one_sample(import_model(self.source.model, self.source.example_inputs)).mod


def _torch(files: PeerInputs) -> None:
    torch = _need("torch", "torch")
    model = files.source.model
    if not isinstance(model, Path):
        torch.save(model, files.folder / "model.pt")
    elif model.suffix.lower() == ".pt2":
        shutil.copyfile(model, files.folder / "model.pt2")
    else:
        raise ModelError(
            f"{files.source.name} is an ONNX file, which torch does not run; use onnxruntime"
        )


def _onnx(files: PeerInputs) -> None:
    model, path = files.source.model, files.folder / "model.onnx"
    if isinstance(model, Path) and model.suffix.lower() == ".onnx":
        onnx = _need("onnx", "onnx")
        onnx.save(onnx.load(str(model)), str(path))  # with its external data
        return
    torch = _need("torch", "torch")
    _need("onnxscript", "onnx")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it lists operators nobody asked for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(model, Path):
            model, arguments = torch.export.load(model), None
        else:
            arguments = files.source.example_inputs
        torch.onnx.export(model, arguments, str(path), verbose=False, external_data=False)


def _network(files: PeerInputs) -> None:
    from xnortvm.tools.network_export import export_network, matched

    export_network(matched(files.imported)).save(files.folder)


def _relax(files: PeerInputs) -> None:
    from xnortvm._tvm import ir
    from xnortvm.target import resolve

    (files.folder / "module.json").write_text(ir.save_json(files.imported))
    wanted = resolve(files.target)
    target = {"kind": "llvm", "mcpu": wanted.mcpu, "mtriple": wanted.triple}
    (files.folder / "target.json").write_text(json.dumps(target))


FORMS: dict[str, Callable[[PeerInputs], None]] = {
    "torch": _torch,
    "onnx": _onnx,
    "network": _network,
    "relax": _relax,
}


def _need(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"writing the model for it needs the package {module}, which cannot be imported "
            f'({error}); run: pip install "xnortvm[{extra}]"'
        ) from error

# SPDX-License-Identifier: Apache-2.0
"""Other engines that run the same model, for comparison: one row of `PEERS` each.

A peer is prepared from the model that was compiled, never from another export of it, and its
output is compared before it is timed.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xnortvm.errors import MissingDependencyError, ModelError, VerificationError
from xnortvm.tools.model_arg import Source

Outputs = list[np.ndarray[Any, Any]]
Runner = Callable[[Sequence[np.ndarray[Any, Any]]], Outputs]

# Relative to the largest output. Sums of floats in another order differ by 1e-6; where such a
# difference meets a sign, one bit of a later layer flips and the output moves by more than that.
_SAME = 1e-4
_FLIPPED = 0.1


class Agreement(NamedTuple):
    """How far a peer's output is from the compiled model's.

    Attributes
    ----------
    error : float
        Largest difference relative to the largest output.
    top1 : bool
        Whether the largest output is the same everywhere.
    """

    error: float
    top1: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return self._asdict()


def _torch(source: Source, num_threads: int) -> Runner:
    """PyTorch eager."""
    torch = _import("torch", "torch")
    if isinstance(source.model, Path):
        if source.model.suffix.lower() != ".pt2":
            raise ModelError(
                f"{source.name} cannot be run by the peer torch: it is an ONNX file; "
                "use --against onnxruntime"
            )
        module = torch.export.load(source.model).module()
    else:
        module = source.model

    def run(inputs: Sequence[np.ndarray[Any, Any]]) -> Outputs:
        torch.set_num_threads(num_threads)
        with torch.inference_mode():
            result = module(*(torch.from_numpy(value) for value in inputs))
        return [part.numpy() for part in (result if isinstance(result, tuple) else (result,))]

    return run


def _onnxruntime(source: Source, num_threads: int) -> Runner:
    """ONNX Runtime's CPU provider, all its graph optimisations on."""
    runtime = _import("onnxruntime", "dev")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="xnortvm-peer-") as folder:
        path = _as_onnx(source, Path(folder))
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(inputs: Sequence[np.ndarray[Any, Any]]) -> Outputs:
        return list(session.run(None, dict(zip(names, inputs, strict=True))))

    return run


def _as_onnx(source: Source, folder: Path) -> Path:
    if isinstance(source.model, Path) and source.model.suffix.lower() == ".onnx":
        return source.model
    torch = _import("torch", "torch")
    _import("onnxscript", "onnx")
    path = folder / "model.onnx"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it lists operators nobody asked for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if isinstance(source.model, Path):
            torch.onnx.export(torch.export.load(source.model), f=str(path), verbose=False)
        else:
            torch.onnx.export(source.model, source.example_inputs, str(path), verbose=False)
    return path


PEERS: dict[str, Callable[[Source, int], Runner]] = {"torch": _torch, "onnxruntime": _onnxruntime}


def compare(mine: Outputs, theirs: Outputs, peer: str) -> Agreement:
    """Compare outputs; a peer that computes something else is not timed.

    Parameters
    ----------
    mine, theirs : list of ndarray
        Outputs of the compiled model and of the peer.
    peer : str
        Its name.

    Raises
    ------
    VerificationError
        When the outputs are not of the same model.
    """
    if [each.shape for each in mine] != [each.shape for each in theirs]:
        raise VerificationError(
            f"the peer {peer} gives outputs of shapes {[each.shape for each in theirs]} where the "
            f"compiled model gives {[each.shape for each in mine]}; it cannot be compared"
        )
    error, top1 = 0.0, True
    for ours, other in zip(mine, theirs, strict=True):
        largest = np.abs(other).max(initial=0.0) or 1.0
        error = float(np.maximum(error, np.abs(ours - other).max(initial=0.0) / largest))
        if ours.ndim and ours.shape[-1]:
            top1 = top1 and bool((ours.argmax(-1) == other.argmax(-1)).all())
    if not (error <= _SAME or (error <= _FLIPPED and top1)):
        raise VerificationError(
            f"the peer {peer} and the compiled model disagree by {error:.1e} of the largest "
            f"output{'' if top1 else ' and on the best class'}; run the model with verify=True to "
            "see which of the two is wrong"
        )
    return Agreement(error, top1)


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"comparing with this peer needs the package {module}, which cannot be imported "
            f'({error}); run: pip install "xnortvm[{extra}]"'
        ) from error

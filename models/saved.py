# SPDX-License-Identifier: Apache-2.0
"""Saved models: weights as safetensors, and a small JSON that rebuilds the model.

``net.safetensors`` holds the weights and, in its header, the JSON; the same text lies beside it in
``net.json`` for people and other tools. So one rename replaces weights and description together,
and whoever has the one file has the model. The JSON also holds a digest of the weights, by which
damage is noticed. Nothing in either file is ever executed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from xnortvm import __version__
from xnortvm.errors import MissingDependencyError, ModelError, near

from .convert import replace_layers
from .files import write_atomically
from .layers import binary_layers, freeze_
from .real import real_twin
from .registry import MODELS, build
from .scale import LearnedScale
from .spec import Spec, spec_of
from .window import text as size_text

FORMAT = 1
CHECKPOINTS = Path(__file__).resolve().parent / "checkpoints"
"""Trained models that come with the package: ``load(CHECKPOINTS / "digits")``."""

_KEY = "xnortvm"
_DAMAGED = "copy it again, or train it again"


class Saved(NamedTuple):
    """A checkpoint that was read.

    Attributes
    ----------
    spec : Spec
        What rebuilds the model.
    frozen : bool
        Whether the weights of binary layers are ±1.
    tensors : dict of Tensor
        The model's state.
    trained : dict
        What `save` was told about the training: data, recipe, accuracy.
    """

    spec: Spec
    frozen: bool
    tensors: dict[str, Tensor]
    trained: dict[str, Any]


def save(model: nn.Module, path: str | Path, *, trained: dict[str, Any] | None = None) -> Path:
    """Save a model's weights as safetensors, and beside them the JSON that rebuilds it.

    Parameters
    ----------
    model : nn.Module
        From `build`, `binarize` or `load`.
    path : str or Path
        ``net.safetensors``, or ``net``; the JSON becomes ``net.json``.
    trained : dict, optional
        What is to be remembered of the training; must be possible in JSON.

    Returns
    -------
    Path
        Of the safetensors file.

    Raises
    ------
    ModelError
        When the model does not know how it was made, or for another suffix.
    OutputError
        When a file cannot be written; a former file is then as it was.
    """
    spec = spec_of(model)
    if spec is None:
        raise ModelError(
            f"a {type(model).__name__} cannot be saved, because it does not say how to rebuild it; "
            "make it by xnortvm.models.build or binarize, or save its state_dict yourself"
        )
    path = weights_path(path)
    tensors = {name: value.detach().cpu().contiguous() for name, value in _state(model).items()}
    library = _safetensors()
    digest = hashlib.sha256(_payload(library.save(tensors))).hexdigest()
    description = {
        "format": FORMAT,
        "xnortvm": __version__,
        **spec.to_json(),
        "frozen": any(layer.frozen for layer in binary_layers(model).values()),
        "trained": trained or {},
        "sha256": digest,
    }
    note = json.dumps(description, indent=2, ensure_ascii=False)
    write_atomically(path, library.save(tensors, metadata={_KEY: note}))
    write_atomically(path.with_suffix(".json"), note + "\n")
    return path


def load(path: str | Path, *, base: nn.Module | None = None, **options: Any) -> nn.Module:
    """Load a model that `save` has written.

    Parameters
    ----------
    path : str or Path
        ``net.safetensors``, ``net.json`` or ``net``.
    base : nn.Module, optional
        The real-valued network, for a model made by `binarize`, which cannot be rebuilt by name.
    **options
        Override options of the network, as in ``input_size=64``. Only what leaves all parameters
        their shapes can work.

    Returns
    -------
    nn.Module
        In evaluation mode, float32 on the CPU.

    Raises
    ------
    ModelError
        When the file is missing or damaged, was not written by `save`, or does not fit.

    Examples
    --------
    >>> model = load("runs/digits/model.safetensors")  # doctest: +SKIP
    >>> compiled = xnortvm.compile(model, example_inputs=image)  # doctest: +SKIP
    """
    saved = read(path)
    model = _rebuild(saved.spec.with_options(options), base, weights_path(path))
    if saved.frozen:
        freeze_(model)
    load_tensors(model, saved.tensors, str(weights_path(path)))
    return model.eval()


def read(path: str | Path) -> Saved:
    """Read a checkpoint without building its model.

    Raises
    ------
    ModelError
        When the file is missing or damaged, or was not written by `save`.
    """
    path = weights_path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"the checkpoint {path} does not exist; check the path") from error
    except OSError as error:
        raise ModelError(f"the checkpoint {path} cannot be read: {error.strerror}") from error
    try:
        tensors = dict(_safetensors().load(raw))
        header = json.loads(raw[8 : 8 + _header_size(raw)])
    except MissingDependencyError:
        raise
    except Exception as error:  # the library has its own class for some, and panics for others
        raise ModelError(
            f"the checkpoint {path} is damaged: {len(raw)} bytes that are not a whole safetensors "
            f"file ({error}); {_DAMAGED}"
        ) from error
    description = _description(path, header.get("__metadata__", {}).get(_KEY))
    if hashlib.sha256(_payload(raw)).hexdigest() != description.get("sha256"):
        raise ModelError(
            f"the checkpoint {path} is damaged: its weights are not those that were saved "
            f"(their SHA-256 differs); {_DAMAGED}"
        )
    try:
        spec = Spec.from_json(description)
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the checkpoint {path} does not say how to rebuild its model: {error} is missing or "
            f"wrong in its description; {_DAMAGED}"
        ) from error
    return Saved(spec, bool(description.get("frozen")), tensors, description.get("trained", {}))


def load_tensors(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Fill a model, saying in the model's terms what does not fit.

    Raises
    ------
    ModelError
        Names the layer and both sizes when Γ was trained for another input, the numbers of classes
        when those differ, and otherwise the first tensor that does not fit.
    """
    state = _state(model)
    for name in sorted({*state} ^ {*tensors}):
        where = "the network has" if name in state else f"{source} holds"
        raise ModelError(
            f"{source} does not fit the network: only {where} {name!r}; build the network with "
            "the options it was saved with"
        )
    # Γ first: another input size also changes the linear layers behind it, which says less.
    for name in sorted(tensors, key=lambda name: (".scale." not in name, name)):
        if tensors[name].shape != state[name].shape:
            raise ModelError(_misfit(model, name, tensors, source))
    model.load_state_dict(tensors, strict=True)


def weights_path(path: str | Path) -> Path:
    """Return the path of the weights for a path with suffix .safetensors, .json or none.

    Raises
    ------
    ModelError
        For another suffix.
    """
    path = Path(path)
    if path.suffix not in ("", ".safetensors", ".json"):
        raise ModelError(
            f"{path} is not the name of a checkpoint; name a .safetensors file, or its .json"
        )
    return path.with_suffix(".safetensors")


def _misfit(model: nn.Module, name: str, tensors: dict[str, Tensor], source: str) -> str:
    saved, wanted = tensors[name], _state(model)[name]
    layer, _, factor = name.rpartition(".scale.")
    binary = binary_layers(model).get(layer)
    if factor and binary is not None and isinstance(binary.scale, LearnedScale):
        here = binary.scale.map_size
        factors = [value for key, value in tensors.items() if key.startswith(f"{layer}.scale.")]
        there = tuple(max(f.shape[axis] for f in factors) for axis in range(1, factors[0].dim()))
        if here is not None and there != here:
            return (
                f"layer {layer!r}: its scale was trained for output maps of {size_text(there)} in "
                f"{source}, and the network is built for {size_text(here)}; build it for the input "
                "size of the training, or use scale 'channel', which fits every size"
            )
    if name in ("fc.weight", "fc.bias"):
        return (
            f"{source} was trained for {saved.shape[0]} classes and the network has "
            f"{wanted.shape[0]}; build it with num_classes={saved.shape[0]}"
        )
    return (
        f"{source} does not fit the network: {name!r} is {size_text(saved.shape)} there and "
        f"{size_text(wanted.shape)} in the network"
    )


def _rebuild(spec: Spec, base: nn.Module | None, path: Path) -> nn.Module:
    if spec.binarized is not None:
        if base is None:
            raise ModelError(
                f"{path} holds a binarized {spec.network}, which cannot be rebuilt by name; "
                "pass base=, the real-valued network that was given to binarize"
            )
        return replace_layers(base, spec.binarized)
    if spec.network not in MODELS:
        raise ModelError(
            f"{path} holds the network {spec.network!r}, which is not known here"
            f"{near(spec.network, MODELS)}; known are {', '.join(MODELS)}"
        )
    try:
        model = build(spec.network, randomize=False, **spec.options)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the network of {path} cannot be rebuilt: {error}") from error
    return real_twin(model) if spec.real else model


def _description(path: Path, note: str | None) -> dict[str, Any]:
    beside = path.with_suffix(".json")
    if note is None:
        try:
            note = beside.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(
                f"{path} holds weights but does not say of which network, and {beside} cannot be "
                "read; save models by xnortvm.models.save"
            ) from error
    try:
        description = json.loads(note)
    except json.JSONDecodeError as error:
        raise ModelError(f"the description of {path} is damaged: {error}; {_DAMAGED}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        found = description.get("format") if isinstance(description, dict) else None
        raise ModelError(
            f"{path} has format {found} and this xnortvm {__version__} reads format {FORMAT}; "
            "use the xnortvm that wrote it"
        )
    return description


def _state(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.state_dict())


def _header_size(raw: bytes) -> int:
    return int.from_bytes(raw[:8], "little")


def _payload(raw: bytes) -> bytes:
    """Return the bytes of the tensors, without the header."""
    return raw[8 + _header_size(raw) :]


def _safetensors() -> Any:
    try:
        return importlib.import_module("safetensors.torch")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "safetensors":
            raise
        raise MissingDependencyError(
            "saved models need safetensors, which is not installed; "
            'run: pip install "xnortvm[train]"'
        ) from error

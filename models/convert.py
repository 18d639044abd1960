# SPDX-License-Identifier: Apache-2.0
"""Turn a real-valued network into a binary one by replacing chosen layers."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from xnortvm.errors import ModelError, near

from .layers import BinaryConv1d, BinaryConv2d, BinaryLayer, BinaryLinear, name_layers
from .scale import scale_kind
from .scale_init import init_scales_
from .spec import Spec, note_spec
from .window import Size

Model = TypeVar("Model", bound=nn.Module)

KINDS: dict[type[nn.Module], type[BinaryLayer]] = {
    nn.Conv1d: BinaryConv1d,
    nn.Conv2d: BinaryConv2d,
    nn.Linear: BinaryLinear,
}
"""What replaces what; sub-classes do something of their own and are left alone."""

_RANKS = {nn.Linear: 0, nn.Conv1d: 1, nn.Conv2d: 2}
_NORMS: dict[int, type[nn.Module]] = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d}


@dataclass(frozen=True)
class Met:
    """What a layer got and gave when the example inputs passed.

    Parameters
    ----------
    map_size : tuple of int
        Spatial extents of the output.
    mean, variance : Tensor
        Per input channel, (i,).
    """

    map_size: Size
    mean: Tensor
    variance: Tensor


def binarize(
    model: Model,
    *,
    scale: str = "channel×height×width",
    skip: Sequence[str] = ("first", "last"),
    example_inputs: Any = None,
    norm: bool = True,
    scale_init: str = "analytic",
    estimator: str = "clipped",
    weight_estimator: str = "clipped",
    sign_zero: str = "0",
) -> Model:
    """Copy a network with its convolutions and linear layers replaced by binary ones.

    Each `nn.Conv1d`, `nn.Conv2d` and `nn.Linear` becomes a batch norm and a binary layer with the
    same weights, as latent weights. The batch norm is there because the input is usually what a
    ReLU gives, never negative: XNOR-Net's order is BN > sign > convolution. Train the result; as it
    is, it has lost most of its accuracy.

    Parameters
    ----------
    model : nn.Module
        Any network; it is left as it is.
    scale : str
        Γ of the convolutions, see `models.scale`; linear layers take the form that exists for
        them.
    skip : sequence of str
        Layers that stay real: qualified names, patterns such as ``"*.downsample.0"``, and
        ``"first"`` and ``"last"``, by the order in which layers run (with `example_inputs`) or are
        defined (without). XNOR-Net++ keeps first and last; its author's baseline also the 1×1
        convolutions of the shortcuts.
    example_inputs : tensor or tuple of tensors, optional
        Arguments of one call. Needed by scales that vary over the output map. The inserted batch
        norms start from their statistics.
    norm : bool
        Whether to insert batch norms; leave them away where one stands before each layer already.
    scale_init : {"analytic", "ones"}
        See `models.scale_init`.
    estimator, weight_estimator, sign_zero : str
        See `models.ste`.

    Returns
    -------
    nn.Module
        Same class as `model`; a replaced layer ``x`` has parts ``x.norm`` and ``x.binary``.

    Raises
    ------
    ModelError
        When a name in `skip` matches nothing, nothing is left to replace, a layer cannot be
        replaced, or the scale needs `example_inputs`.
    ValueError
        For an unknown scale, estimator or start.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(),
    ...                     nn.Linear(128, 10))
    >>> binary = binarize(net, example_inputs=torch.randn(4, 3, 8, 8))
    >>> tuple(binary[2].binary.scale.full().shape)
    (8, 4, 4)
    """
    full, kind = scale_kind(scale)
    layers = {name: m for name, m in model.named_modules() if type(m) in KINDS}
    met = {} if example_inputs is None else _meet(model, layers, example_inputs)
    order = [*met, *(name for name in layers if name not in met)]
    chosen = [name for name in order if name not in _skipped(order, skip)]
    if not chosen:
        raise ModelError(
            f"no layer is left to binarize: the network has {len(layers)} convolutions and linear "
            f"layers, and skip={list(skip)} covers them all; skip fewer"
        )
    if kind.spatial and example_inputs is None and any(_rank(layers[name]) for name in chosen):
        raise ModelError(
            f"scale {full!r} has numbers per output position; pass example_inputs, so that the "
            "output map of each layer is known"
        )
    if example_inputs is not None:
        for name in chosen:
            if name not in met:
                raise ModelError(
                    f"layer {name!r} did not run when example_inputs passed the network; "
                    "add it to skip"
                )
    options: dict[str, Any] = {
        "scale": full,
        "norm": norm,
        "estimator": estimator,
        "weight_estimator": weight_estimator,
        "sign_zero": sign_zero,
    }
    sizes = {name: list(met[name].map_size) if name in met else None for name in chosen}
    result = replace_layers(model, {"layers": sizes, "options": options})
    init_scales_(result, scale_init)
    if norm:
        for name in chosen:
            if name in met:
                _start_norm(result.get_submodule(f"{name}.norm"), met[name])
    return result


def replace_layers(model: Model, plan: dict[str, Any]) -> Model:
    """Copy a network and replace the layers of a plan, as `Spec.binarized` keeps it.

    Raises
    ------
    ModelError
        When the network lacks a layer of the plan, or it cannot be replaced.
    """
    result = copy.deepcopy(model)
    for name, size in plan["layers"].items():
        try:
            layer = result.get_submodule(name)
        except AttributeError as error:
            raise ModelError(
                f"the network has no layer {name!r}, which was binarized in the one that was saved"
            ) from error
        if type(layer) not in KINDS:
            raise ModelError(
                f"layer {name!r} is a {type(layer).__name__}, not one of "
                f"{', '.join(kind.__name__ for kind in KINDS)}"
            )
        result.set_submodule(name, _binary(name, layer, size, **plan["options"]))
    name_layers(result)
    note_spec(result, Spec(_class_name(model), binarized=plan))
    return result


def _class_name(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _rank(layer: nn.Module) -> int:
    return _RANKS[type(layer)]


def _skipped(names: Sequence[str], skip: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for pattern in [skip] if isinstance(skip, str) else skip:
        if pattern in ("first", "last"):
            matches = names[:1] if pattern == "first" else names[-1:]
        else:
            matches = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
            if not matches:
                raise ModelError(
                    f"skip names {pattern!r}, but no convolution or linear layer is called that"
                    f"{near(pattern, names)}; they are {', '.join(names)}"
                )
        found.update(matches)
    return found


def _meet(model: nn.Module, layers: dict[str, nn.Module], inputs: Any) -> dict[str, Met]:
    """Run the network once and note what each layer meets, in the order in which they run."""
    met: dict[str, Met] = {}

    def note(name: str, rank: int, x: Tensor, y: Tensor) -> None:
        size = tuple(y.shape[y.dim() - rank :])
        if name in met and met[name].map_size != size:
            raise ModelError(
                f"layer {name!r} runs several times, on maps of different sizes; add it to skip"
            )
        channels = x.dim() - rank - 1
        values = x.detach().double().movedim(channels, 0).flatten(1)
        met[name] = Met(size, values.mean(1), values.var(1, correction=0))

    names = {layer: name for name, layer in layers.items()}
    hooks = [
        layer.register_forward_hook(lambda m, x, y: note(names[m], _rank(m), x[0], y))
        for layer in names
    ]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(*(inputs if isinstance(inputs, (tuple, list)) else (inputs,)))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return met


def _binary(
    name: str, layer: Any, map_size: Sequence[int] | None, *, scale: str, norm: bool, **options: Any
) -> nn.Sequential:
    """Make the batch norm and the binary layer that stand for a real layer."""
    rank = _rank(layer)
    kind = scale_kind(scale)[1]
    has_bias = layer.bias is not None
    try:
        if rank == 0:
            channels = layer.in_features
            binary: BinaryLayer = BinaryLinear(
                channels, layer.out_features, has_bias, scale=kind.linear, **options
            )
        else:
            channels = layer.in_channels
            _check_padding(name, layer)
            binary = (BinaryConv1d if rank == 1 else BinaryConv2d)(
                channels,
                layer.out_channels,
                layer.kernel_size,
                layer.stride,
                layer.padding,
                layer.dilation,
                layer.groups,
                has_bias,
                scale=scale,
                map_size=None if map_size is None else tuple(map_size),
                **options,
            )
    except ModelError:
        raise
    except ValueError as error:
        raise ModelError(f"layer {name!r} cannot be binarized: {error}; or skip it") from error
    with torch.no_grad():
        binary.weight.copy_(layer.weight)
        if binary.bias is not None:
            binary.bias.copy_(layer.bias)
    result = nn.Sequential()
    if norm:
        result.add_module("norm", _NORMS[rank](channels))
    result.add_module("binary", binary)
    return result.to(layer.weight.device, layer.weight.dtype).train(layer.training)


def _check_padding(name: str, layer: Any) -> None:
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise ModelError(
            f"layer {name!r} pads by {layer.padding!r} with {layer.padding_mode}, and binary "
            "convolutions pad by numbers with zeros; give its padding in numbers, or skip it"
        )


@torch.no_grad()
def _start_norm(norm: Any, met: Met) -> None:
    """Start a batch norm from the statistics of the example inputs, if they have any."""
    if bool((met.variance > 0).any()):
        norm.running_mean.copy_(met.mean)
        norm.running_var.copy_(met.variance)

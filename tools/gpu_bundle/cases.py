# SPDX-License-Identifier: Apache-2.0
"""The models of the bundle: small ones for exactness, ResNet-18's layers and networks for time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from xnortvm import models
from xnortvm.tools.gpu_bundle.layers import BATCHES, LAYERS, Layer
from xnortvm.tools.gpu_bundle.products import PRODUCTS, TILES, Product


class Case(NamedTuple):
    """One model to compile.

    Attributes
    ----------
    name : str
        Unique, a file name.
    kind : str
        ``"exact"``, ``"times"`` or ``"network"``.
    family : str
        Cases of a family run in one process, so that a fault in it ends no other.
    make : callable
        Returns the module and its example inputs.
    layer : str
        Of ResNet-18, for "times".
    batch : int
        That it is compiled for.
    macs : int
        Binary multiply-accumulates.
    options : dict
        For `xnortvm.compile`.
    tiles : tuple of (str, tile)
        Families and their tiles that it is compiled with as well, where the rule chooses the
        family.
    compared : bool
        Whether its outputs are those of the model compiled for this machine.
    """

    name: str
    kind: str
    family: str
    make: Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]
    layer: str = ""
    batch: int = 1
    macs: int = 0
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed
    tiles: tuple[tuple[str, Any], ...] = ()
    compared: bool = True


class _Shortcut(nn.Module):
    """``activation(body(x)) + x``, and the integers of a binary layer that reads its signs."""

    def __init__(self, channels: int, size: int, scale: str) -> None:
        super().__init__()
        form: dict[str, Any] = {"padding": 1, "sign_zero": "+1"}
        self.body = models.BinaryConv2d(channels, channels, 3, scale=scale, map_size=size, **form)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.PReLU(channels)
        self.last = models.BinaryConv2d(channels, channels, 3, scale="none", **form)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Trunk and integers: the two outputs of one kernel, one of them as bits."""
        y = self.act(self.norm(self.body(x))) + x
        return y, self.last(y)


def _finished(module: nn.Module, shape: tuple[int, ...]) -> tuple[nn.Module, Any]:
    module = models.randomize_(module, seed=1, zero=0.05).eval()
    generator = torch.Generator().manual_seed(2)
    # Steps of 1/16 take little room when compressed, and some are exactly 0.
    return module, (torch.round(torch.randn(shape, generator=generator) * 16) / 16,)


def _conv(
    batch: int, channels: int, outputs: int, size: int, *, scale: str = "none", **form: Any
) -> tuple[nn.Module, Any]:
    form = {"kernel_size": 3, "padding": 1, "sign_zero": "+1", **form}
    conv = models.BinaryConv2d(channels, outputs, scale=scale, **form)
    return _finished(nn.Sequential(conv), (batch, channels, size, size))


def _chain(batch: int, channels: int, outputs: int, size: int, **form: Any) -> Any:
    """Integers behind thresholds: a wrong bit anywhere changes them."""
    form = {"kernel_size": 3, "padding": 1, "sign_zero": "+1", **form}
    module = nn.Sequential(
        models.BinaryConv2d(channels, outputs, scale="channel", **form),
        nn.BatchNorm2d(outputs),
        models.BinaryConv2d(outputs, 32, 1, scale="none", sign_zero="+1"),
    )
    return _finished(module, (batch, channels, size, size))


def dense(rows: int, features: int, outputs: int) -> tuple[nn.Module, Any]:
    """Return a binary dense layer whose outputs are integers, and its inputs."""
    layer = models.BinaryLinear(features, outputs, scale="none", sign_zero="+1")
    return _finished(nn.Sequential(layer), (rows, features))


def _shortcut(batch: int, channels: int, size: int, scale: str) -> tuple[nn.Module, Any]:
    return _finished(_Shortcut(channels, size, scale), (batch, channels, size, size))


#: Up to this batch launches cost more than kernels do, so that replaying them is worth measuring.
_GRAPHED = 8

_Make = Callable[[], tuple[nn.Module, Any]]

#: Family → name → model. What dispatch makes of each on a chip, the manifest says.
EXACT: dict[str, dict[str, _Make]] = {
    "convolution": {
        "c64_14": partial(_conv, 1, 64, 64, 14),
        "c128_28_b8": partial(_conv, 8, 128, 128, 28),
        "c256_14_b2": partial(_conv, 2, 256, 256, 14),
        "c512_7_b8": partial(_conv, 8, 512, 512, 7),
        "c256_13x13_o128": partial(_conv, 3, 256, 128, 13),
        "c128_56": partial(_conv, 1, 128, 64, 56),
        "c32_28": partial(_conv, 2, 32, 64, 28),
        "c64_56_stride2": partial(_conv, 2, 64, 128, 56, stride=2),
        "c64_56_b8": partial(_conv, 8, 64, 64, 56),
        "c192_14": partial(_conv, 3, 192, 64, 14),
        "c384_13": partial(_conv, 1, 384, 128, 13),
        "c512_7_stride2": partial(_conv, 8, 512, 128, 7, stride=2),
    },
    "odd_shapes": {
        "c3": partial(_conv, 1, 3, 16, 9),
        "c40_o72": partial(_conv, 2, 40, 72, 11),
        "stride2": partial(_conv, 2, 128, 256, 15, stride=2),
        "c96": partial(_conv, 2, 96, 40, 11),
        "c150_stride3": partial(_conv, 2, 150, 64, 17, stride=3),
        "dilation2": partial(_conv, 1, 64, 64, 14, dilation=2, padding=2),
        "groups4": partial(_conv, 1, 128, 128, 9, groups=4),
        "depthwise": partial(_conv, 1, 64, 64, 9, groups=64),
        "5x5_no_padding": partial(_conv, 1, 64, 96, 12, kernel_size=5, padding=0),
        "1x1": partial(_conv, 2, 256, 128, 14, kernel_size=1, padding=0),
        "map_1x1": partial(_conv, 8, 128, 128, 1),
    },
    "dense": {
        "gemm_512": partial(dense, 512, 2048, 512),
        "gemm_odd": partial(dense, 77, 333, 130),
        "k4608": partial(dense, 128, 4608, 128),
        "gemv": partial(dense, 1, 4096, 1024),
        "b8": partial(dense, 8, 1024, 1000),
    },
    "thresholds": {
        "c64_14": partial(_chain, 1, 64, 64, 14),
        "c256_14_b8": partial(_chain, 8, 256, 256, 14),
        "c128_stride2": partial(_chain, 2, 128, 256, 28, stride=2),
        "c40_o72": partial(_chain, 2, 40, 72, 11),
    },
    "epilogues": {
        "channel": partial(_shortcut, 2, 64, 14, "channel"),
        "case4": partial(_shortcut, 2, 128, 14, "channel×height×width"),
        "dense_scale": partial(_shortcut, 1, 64, 9, "dense"),
        "case3": partial(_shortcut, 1, 128, 13, "channel×spatial"),
    },
}


def _product(made: Product) -> tuple[nn.Module, Any]:
    """Bits come in, and thresholds give bits."""
    module = nn.Sequential(
        models.BinaryLinear(made.bits, made.columns, scale="channel", sign_zero="+1"),
        nn.BatchNorm1d(made.columns),
        models.BinaryLinear(made.columns, 32, scale="none", sign_zero="+1"),
    )
    return _finished(module, (made.rows, made.bits))


def _layer(layer: Layer, batch: int) -> tuple[nn.Module, Any]:
    """One convolution with a threshold behind it, so that bits come in and bits go out."""
    module = nn.Sequential(
        models.BinaryConv2d(
            *(layer.channels, layer.outputs, layer.kernel, layer.stride, layer.kernel // 2),
            scale="channel",
            sign_zero="+1",
        ),
        nn.BatchNorm2d(layer.outputs),
        models.BinaryConv2d(layer.outputs, 32, 1, scale="none", sign_zero="+1"),
    )
    return _finished(module, (batch, layer.channels, layer.size, layer.size))


def _network(batch: int, *, real: bool = False) -> tuple[nn.Module, Any]:
    network = models.build("resnet18", sign_zero="+1").eval()
    image = models.random_input(network, batch=1, seed=3)
    if real:
        network = _cheap(models.real_twin(network).eval())
    return network, (image.repeat(batch, 1, 1, 1),)


def _cheap(network: nn.Module) -> nn.Module:
    """Let weights repeat every 4 KiB, so that they take no room when compressed."""
    with torch.no_grad():
        for parameter in network.parameters():
            flat = parameter.data.flatten()
            period = flat[:1024].clone()
            parameter.copy_(
                period.repeat(-(-flat.numel() // 1024))[: flat.numel()].view_as(parameter)
            )
    return network


def cases(batches: Sequence[int] = BATCHES) -> Iterator[Case]:
    """Yield all models."""
    for family, rows in EXACT.items():
        for name, make in rows.items():
            yield Case(f"{family}-{name}", "exact", family, make)
    yield Case("tiles-gemm_odd", "exact", "tiles", partial(dense, 333, 2080, 320), tiles=TILES)
    for made in PRODUCTS:
        name, fitting = made.name.replace(" ", "_"), made.tiles
        about = partial(_product, made), made.name, made.rows, made.macs
        yield Case(name, "times", "times", *about, tiles=fitting)
    for layer in LAYERS:
        for batch in batches:
            name = f"{layer.name.replace(' ', '_')}-batch{batch}"
            make = partial(_layer, layer, batch)
            yield Case(name, "times", "times", make, layer.name, batch, layer.macs(batch))
    for batch in batches:
        yield Case(
            f"resnet18-batch{batch}", "network", "network", partial(_network, batch), "", batch
        )
    for batch in batches:
        if batch <= _GRAPHED:
            make = partial(_network, batch)
            options = {"cuda_graph": True}
            name = f"resnet18-graph-batch{batch}"
            yield Case(name, "network", "network", make, "", batch, options=options)
    for batch in batches:
        if batch > _GRAPHED:  # where bytes count; signs near 0 differ from fp32, and what follows
            make = partial(_network, batch)
            name = f"resnet18-fp16-trunk-batch{batch}"
            half = Case(name, "network", "network", make, "", batch, options={"trunk": "fp16"})
            yield half._replace(compared=False)
    real = partial(_network, 8, real=True)
    yield Case("resnet18-fp32-batch8", "network", "network", real, "", 8)

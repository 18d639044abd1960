# SPDX-License-Identifier: Apache-2.0
"""Steps that add a layer: how the weights are made, and whether it has to come out binary."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.fuzz.build import Args, Build, Value, any_value, is_map
from tests.fuzz.layers import Binary, Conv, Linear, ScaledByInput, Transposed
from tests.fuzz.pointwise import POINTWISE
from tests.fuzz.spec import Step
from tests.idioms.signs import SIGNS
from tests.idioms.weights import WEIGHTS, Weight

#: Largest tensor and largest weight, in elements: networks stay cheap.
MOST = 10_000


def _weight(build: Build, args: Args, *shape: int) -> Weight:
    """The weight of a spelling; plain sign where the spelling is not defined for the shape."""
    filters = build.normal(*shape)
    if args.get("zeros"):
        filters[torch.rand(shape, generator=build.generator) < 0.3] = 0
    spelling = WEIGHTS[args["weight"]]
    degenerate = filters[0].numel() < spelling.least or shape[1] < spelling.least
    degenerate |= spelling is WEIGHTS["Rotated"] and shape[1] > 256
    if degenerate or (spelling.least > 1 and not _varied(filters)):
        spelling = WEIGHTS["Sign"]
    made = spelling(filters)
    return made if _settled(made, filters) else WEIGHTS["Sign"](filters)


def _settled(made: Weight, filters: Tensor) -> bool:
    """Whether weights stay the same when what they are computed from moves by some rounding."""
    noise = torch.Generator().manual_seed(0)
    expected = made().detach()
    for _ in range(2):
        moved = filters * (1 + 1e-6 * torch.randn(filters.shape, generator=noise))
        found = type(made)(moved)().detach()
        if not torch.allclose(found, expected, rtol=1e-3, atol=1e-4):
            return False
    return True


def _varied(filters: Tensor) -> bool:
    """Whether every filter has a spread, so that it can be standardised."""
    rows = filters.reshape(filters.shape[0], -1)
    return bool((rows.std(1) > 1e-3).all())


def is_binary(weight: Tensor) -> bool:
    """Whether every filter (first axis) takes two values, or ±s and 0."""
    return all(_is_binary_row(row) for row in weight.detach().reshape(weight.shape[0], -1))


def _is_binary_row(row: Tensor) -> bool:
    size = row.abs()
    kept = size[size > 1e-6 * size.max()]
    if not kept.numel() or kept.max() - kept.min() <= 1e-4 * kept.max():
        return True
    upper = row > (row.max() + row.min()) / 2
    allowed = 1e-4 * (row.max() - row.min()) / 2
    return all(part.max() - part.min() <= allowed for part in (row[upper], row[~upper]))


def _affordable(outputs: int, each: int) -> int:
    """As many output channels as `MOST` allows, at least one."""
    return max(1, min(outputs, MOST // each))


def _idiom(value: Value, args: Args) -> str:
    return "" if value.levels else str(args["sign"])


def _finish(build: Build, layer: Binary, x: Value, args: Args) -> Value:
    """Put what follows the layer behind it, shape by shape, and add it."""
    with torch.no_grad():
        y = layer(x.tensor)
    for name in args["after"]:
        layer.after.append(POINTWISE[name](build, tuple(y.shape)).eval())
    layer.residual = bool(args.get("residual")) and y.shape == x.tensor.shape
    return build.add(layer, x)


def _before(build: Build, layer: Binary, x: Value, args: Args) -> None:
    if layer.idiom:
        for name in args["before"]:
            layer.before.append(POINTWISE[name](build, x.shape).eval())


def _bias(build: Build, args: Args, outputs: int) -> Tensor | None:
    return build.normal(outputs) if args["bias"] else None


def _expected(binary: bool, layer: Conv, levels: tuple[float, float]) -> bool | None:
    """Whether a padded layer has to be binary; None where that hangs on what a sign reads.

    Behind a ReLU a sign that is 0 at 0 takes the values 0 and 1, and padding by -1 adds a third.
    """
    if not binary or not any(layer.pad) or layer.pad_value in (0, levels[1]):
        return binary
    if layer.pad_value != levels[0]:
        return False
    known = layer.idiom and SIGNS[layer.idiom].at_threshold != 0
    return True if known else None


def conv(build: Build, step: Step) -> bool:
    args = step.args
    x = build.pick(step.x, is_map)
    if x is None:
        return False
    channels, rank = x.shape[1], len(x.shape) - 2
    groups = {"1": 1, "2": 2, "all": channels}[args["groups"]]
    if channels % groups:
        groups = 1
    outputs = _affordable(args["outputs"], channels // groups * math.prod(args["kernel"][:rank]))
    outputs = _affordable(outputs, x.tensor[:, 0].numel())
    outputs = max(groups, outputs - outputs % groups)
    stride, dilation, border = (args[name][:rank] for name in ("stride", "dilation", "padding"))
    room = [extent + 2 * p for extent, p in zip(x.shape[2:], border, strict=True)]
    kernel = [
        k if d * (k - 1) < r else 1 for k, d, r in zip(args["kernel"], dilation, room, strict=False)
    ]
    explicit = args["pad"] is not None
    attrs = {"stride": stride, "dilation": dilation, "groups": groups}
    attrs["padding"] = border if not explicit or args["twice"] else [0] * rank
    pad = [p + extra for p in border[::-1] for extra in (0, args["skew"])] if explicit else []
    total = [2 * p for p in attrs["padding"]]
    total = [
        t + (2 * p + args["skew"] if explicit else 0) for t, p in zip(total, border, strict=True)
    ]
    size = [
        (extent + t - d * (k - 1) - 1) // s + 1
        for extent, t, d, k, s in zip(x.shape[2:], total, dilation, kernel, stride, strict=True)
    ]
    shape = (outputs, channels // groups, *kernel)
    if min(size) < 1:
        return False
    weight = _weight(build, args, *shape)
    cls = ScaledByInput if args["k"] and not x.levels else Conv
    value = float(args["pad"] or 0)
    layer = cls(weight, _bias(build, args, outputs), _idiom(x, args), attrs, pad, value)
    _before(build, layer, x, args)
    _finish(build, layer, x, args)
    levels = x.levels or SIGNS[layer.idiom].levels
    both = any(pad) and value != 0 and any(attrs["padding"])
    binary = is_binary(weight()) and not both
    build.expect(_expected(binary, layer, levels))
    return True


def real_conv(build: Build, step: Step) -> bool:
    """A layer that reads real values: float, whatever its weights."""
    args = step.args
    x = build.pick(step.x, lambda value: is_map(value) and value.levels is None)
    if x is None:
        return False
    rank = len(x.shape) - 2
    outputs = _affordable(args["outputs"], x.tensor[:, 0].numel())
    weight = _weight(build, args, outputs, x.shape[1], *[args["kernel"][0]] * rank)
    attrs = {"padding": args["kernel"][0] // 2}
    layer = Conv(weight, _bias(build, args, outputs), "", attrs, [], 0.0)
    _finish(build, layer, x, args)
    build.expect(False)
    return True


def transposed(build: Build, step: Step) -> bool:
    args = step.args
    x = build.pick(step.x, is_map)
    if x is None:
        return False
    rank, channels = len(x.shape) - 2, x.shape[1]
    kernel, stride, border = (args[name][:rank] for name in ("kernel", "stride", "padding"))
    groups = 2 if args["groups"] == "2" and channels % 2 == 0 else 1
    sizes = [
        (e - 1) * s - 2 * p + k
        for e, s, p, k in zip(x.shape[2:], stride, border, kernel, strict=True)
    ]
    if min(sizes) < 1:
        return False
    outputs = _affordable(args["outputs"], channels * math.prod(kernel))
    outputs = _affordable(outputs, groups * math.prod(sizes) * x.shape[0])
    weight = _weight(build, args, channels, outputs, *kernel)
    attrs = {"stride": stride, "padding": border, "groups": groups}
    bias = _bias(build, args, outputs * groups)
    layer = Transposed(weight, bias, _idiom(x, args), attrs)
    _before(build, layer, x, args)
    _finish(build, layer, x, args)
    build.expect(None)
    return True


def linear(build: Build, step: Step) -> bool:
    args = step.args
    x = build.pick(step.x, any_value)
    if x is None:
        return False
    features = x.tensor[0].numel()
    outputs = _affordable(args["outputs"], features)
    weight = _weight(build, args, outputs, features)
    flatten = "" if len(x.shape) == 2 else args["flatten"]
    rows = args["rows"] and not x.levels
    bias = _bias(build, args, outputs)
    layer = Linear(weight, bias, _idiom(x, args), flatten, rows)
    if flatten != "before":
        _before(build, layer, x, args)
    _finish(build, layer, x, args)
    build.expect(None if rows else is_binary(weight()))
    return True


def again(build: Build, step: Step) -> bool:
    """An earlier layer reads another value of the same shape: shared weights."""
    for made, wires in list(zip(build.layers, build.wires, strict=True))[::-1]:
        if not isinstance(made, Conv) or isinstance(made, ScaledByInput) or not made.idiom:
            continue
        first = build.values[wires[0]]
        read = {w[0] for each, w in zip(build.layers, build.wires, strict=True) if each is made}
        x = build.pick(
            step.x,
            lambda v, first=first, read=read: (
                v.shape == first.shape and not v.levels and v.index not in read
            ),
        )
        if x is None:
            continue
        build.add(made, x)
        levels = SIGNS[made.idiom].levels
        both = any(made.pad) and made.pad_value != 0 and any(made.attrs["padding"])
        build.expect(_expected(is_binary(made.kernel()) and not both, made, levels))
        return True
    return False

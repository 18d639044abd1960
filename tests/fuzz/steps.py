# SPDX-License-Identifier: Apache-2.0
"""The steps that networks are made of: how each is applied, and how hypothesis draws it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.fuzz.build import Args, Build, Value
from tests.fuzz.layers import (
    Binary,
    Conv,
    Downsample,
    Gate,
    Linear,
    ScaledByInput,
    Signed,
    Transposed,
)
from tests.fuzz.pointwise import POINTWISE, Apply
from tests.fuzz.spec import Step
from tests.idioms.signs import SIGNS
from tests.idioms.weights import WEIGHTS, Weight

#: Largest tensor and largest weight, in elements: networks stay cheap.
MOST = 10_000

CHANNELS = [1, 2, 3, 4, 6, 8, 16, 31, 32, 33, 64, 65]


class Rule(NamedTuple):
    """A kind of step.

    Attributes
    ----------
    apply : callable
        Adds to the network; False when no value fits.
    args : strategy
        Of its args.
    """

    apply: Callable[[Build, Step], bool]
    args: st.SearchStrategy[Args]


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


def _is_map(value: Value) -> bool:
    return value.tensor.dim() in (3, 4)


def _any(value: Value) -> bool:
    return value.tensor.dim() >= 2


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


def _pad_keeps_two_values(args: Args, levels: tuple[float, float]) -> bool:
    value = float(args["pad"])
    return value == 0 or value in levels


def _conv(build: Build, step: Step) -> bool:
    args = step.args
    x = build.pick(step.x, _is_map)
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
    build.expect(binary and (not any(pad) or _pad_keeps_two_values(args, levels)))
    return True


def _real_conv(build: Build, step: Step) -> bool:
    """A layer that reads real values: float, whatever its weights."""
    args = step.args
    x = build.pick(step.x, lambda value: _is_map(value) and value.levels is None)
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


def _transposed(build: Build, step: Step) -> bool:
    args = step.args
    x = build.pick(step.x, _is_map)
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


def _linear(build: Build, step: Step) -> bool:
    args = step.args
    x = build.pick(step.x, _any)
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


def _again(build: Build, step: Step) -> bool:
    """An earlier layer reads another value of the same shape: shared weights."""
    for made, wires in list(zip(build.layers, build.wires, strict=True))[::-1]:
        if not isinstance(made, Conv) or isinstance(made, ScaledByInput) or not made.idiom:
            continue
        first = build.values[wires[0]]
        x = build.pick(
            step.x,
            lambda v, first=first: (
                v.shape == first.shape and not v.levels and v.index != first.index
            ),
        )
        if x is None:
            continue
        build.add(made, x)
        levels = SIGNS[made.idiom].levels
        both = any(made.pad) and made.pad_value != 0 and any(made.attrs["padding"])
        fits = not any(made.pad) or made.pad_value == 0 or made.pad_value in levels
        build.expect(is_binary(made.kernel()) and not both and fits)
        return True
    return False


def _sign(build: Build, step: Step) -> bool:
    x = build.pick(step.x, lambda value: _any(value) and value.levels is None)
    if x is None:
        return False
    idiom = step.args["sign"]
    build.add(Signed(idiom), x, levels=SIGNS[idiom].levels)
    return True


def _pointwise(build: Build, step: Step) -> bool:
    x = build.pick(step.x, lambda value: _any(value) and value.levels is None)
    if x is None:
        return False
    build.add(POINTWISE[step.args["kind"]](build, x.shape), x)
    return True


def _pool(build: Build, step: Step) -> bool:
    args = step.args
    kind, size, stride, border = (args[k] for k in ("kind", "size", "stride", "padding"))
    border = min(border, size // 2)
    x = build.pick(step.x, lambda v: _is_map(v) and min(v.shape[2:]) + 2 * border >= size)
    if x is None:
        return False
    rising = x.levels is not None and x.levels[0] < x.levels[1]
    if kind == "max":
        pool = {3: F.max_pool1d, 4: F.max_pool2d}[len(x.shape)]
        levels = x.levels if rising and len(x.shape) == 4 else None
        build.add(
            Apply(lambda v: pool(v, size, stride, border, ceil_mode=args["ceil"])), x, levels=levels
        )
    else:
        pool = {3: F.avg_pool1d, 4: F.avg_pool2d}[len(x.shape)]
        build.add(
            Apply(
                lambda v: pool(
                    v, size, stride, border, ceil_mode=args["ceil"], count_include_pad=args["count"]
                )
            ),
            x,
        )
    return True


class _Sum(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class _Product(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y


class _Cat(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, y], 1)


def _pair(build: Build, step: Step, same: Callable[[Value, Value], bool]) -> list[Value]:
    """Two different values, of which the second fits the first."""
    x = build.pick(step.x, _any)
    if x is None:
        return []
    y = build.pick(step.args["y"], lambda value: value.index != x.index and same(x, value))
    return [] if y is None else [x, y]


def _sum(build: Build, step: Step) -> bool:
    pair = _pair(build, step, lambda a, b: a.shape == b.shape)
    if pair:
        build.add({"sum": _Sum, "product": _Product}[step.args["kind"]](), *pair)
    return bool(pair)


def _concat(build: Build, step: Step) -> bool:
    def fits(a: Value, b: Value) -> bool:
        return (
            len(a.shape) == len(b.shape) and a.shape[0] == b.shape[0] and a.shape[2:] == b.shape[2:]
        )

    pair = _pair(build, step, fits)
    if pair:
        plain = all(value.levels == (-1.0, 1.0) for value in pair)
        build.add(_Cat(), *pair, levels=(-1.0, 1.0) if plain else None)
    return bool(pair)


def _shuffled(groups: int) -> Callable[[Tensor], Tensor]:
    def shuffle(x: Tensor) -> Tensor:
        n, c, *rest = x.shape
        return x.view(n, groups, c // groups, *rest).transpose(1, 2).reshape(n, c, *rest)

    return shuffle


class Move(NamedTuple):
    """A step that only moves values: where it fits, and what it does."""

    fits: Callable[[Value], bool]
    function: Callable[[Tensor], Tensor]
    keeps_signs: bool


MOVES: dict[str, Move] = {
    "channel shuffle": Move(lambda v: _is_map(v) and v.shape[1] % 2 == 0, _shuffled(2), True),
    "pixel shuffle": Move(
        lambda v: v.tensor.dim() == 4 and v.shape[1] % 4 == 0, lambda x: F.pixel_shuffle(x, 2), True
    ),
    "every second": Move(
        lambda v: v.tensor.dim() == 4 and min(v.shape[2:]) > 1, lambda x: x[:, :, ::2, ::2], True
    ),
    "first half": Move(lambda v: v.shape[1] > 1, lambda x: x[:, : x.shape[1] // 2], True),
    "second half": Move(lambda v: v.shape[1] > 1, lambda x: x.chunk(2, 1)[1], True),
    "to one dimension": Move(lambda v: v.tensor.dim() == 4, lambda x: x.flatten(2), True),
    "to two dimensions": Move(lambda v: v.tensor.dim() == 3, lambda x: x.unsqueeze(2), True),
    "swap": Move(lambda v: v.tensor.dim() == 4, lambda x: x.transpose(2, 3), True),
    "zero channels": Move(
        lambda v: v.tensor.dim() == 4, lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)), False
    ),
    "border": Move(lambda v: v.tensor.dim() == 4, lambda x: F.pad(x, (1, 0, 0, 1)), False),
    "upsample": Move(
        lambda v: v.tensor.dim() == 4 and v.tensor.numel() < 2000,
        lambda x: F.interpolate(x, scale_factor=2.0),
        False,
    ),
    "global mean": Move(lambda v: v.tensor.dim() == 4, lambda x: x.mean((2, 3)), False),
    "global pool": Move(
        lambda v: v.tensor.dim() == 4, lambda x: F.adaptive_avg_pool2d(x, 1), False
    ),
}


def _move(build: Build, step: Step) -> bool:
    move = MOVES[step.args["kind"]]
    x = build.pick(step.x, move.fits)
    if x is None:
        return False
    build.add(Apply(move.function), x, levels=x.levels if move.keeps_signs else None)
    return True


def _gate(build: Build, step: Step) -> bool:
    x = build.pick(step.x, _is_map)
    if x is None:
        return False
    hidden = max(1, x.shape[1] // 4)
    build.add(Gate(build.normal(hidden, x.shape[1]), build.normal(x.shape[1], hidden)), x)
    return True


def _downsample(build: Build, step: Step) -> bool:
    x = build.pick(step.x, lambda value: value.tensor.dim() == 4 and min(value.shape[2:]) > 1)
    if x is None:
        return False
    build.add(Downsample(build.normal(step.args["outputs"], x.shape[1], 1, 1)), x)
    build.expect(False)
    return True


_bool = st.booleans()
_rare = st.sampled_from([False] * 7 + [True])
_sign_name = st.sampled_from(list(SIGNS))
_channels = st.sampled_from(CHANNELS)


def _two(*values: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.sampled_from(values), min_size=2, max_size=2)


_chain = st.lists(st.sampled_from(list(POINTWISE)), max_size=4)
_layer: dict[str, st.SearchStrategy[Any]] = {
    "sign": _sign_name,
    "weight": st.sampled_from([*WEIGHTS, "Sign", "Sign", "MeanPerFilter"]),
    "zeros": _rare,
    "outputs": _channels,
    "bias": _bool,
    "before": st.lists(st.sampled_from(list(POINTWISE)), max_size=2),
    "after": _chain,
}

STEPS: dict[str, Rule] = {
    "conv": Rule(
        _conv,
        st.fixed_dictionaries(
            _layer
            | {
                "kernel": _two(1, 3, 2, 5),
                "stride": _two(1, 2, 3),
                "dilation": _two(1, 1, 2),
                "padding": _two(0, 1, 2),
                "groups": st.sampled_from(["1", "1", "2", "all"]),
                "pad": st.sampled_from([None, None, None, 0, 1, -1]),
                "skew": st.sampled_from([0, 0, 1]),
                "twice": _rare,
                "residual": _bool,
                "k": _rare,
            }
        ),
    ),
    "linear": Rule(
        _linear,
        st.fixed_dictionaries(
            _layer | {"flatten": st.sampled_from(["after", "before"]), "rows": _rare}
        ),
    ),
    "again": Rule(_again, st.just({})),
    "sign": Rule(_sign, st.fixed_dictionaries({"sign": _sign_name})),
    "pointwise": Rule(
        _pointwise, st.fixed_dictionaries({"kind": st.sampled_from(list(POINTWISE))})
    ),
    "pool": Rule(
        _pool,
        st.fixed_dictionaries(
            {
                "kind": st.sampled_from(["max", "average"]),
                "size": st.sampled_from([2, 3]),
                "stride": st.sampled_from([2, 1]),
                "padding": st.sampled_from([0, 1]),
                "ceil": _bool,
                "count": _bool,
            }
        ),
    ),
    "sum": Rule(
        _sum,
        st.fixed_dictionaries(
            {"kind": st.sampled_from(["sum", "sum", "product"]), "y": st.integers(0, 5)}
        ),
    ),
    "concat": Rule(_concat, st.fixed_dictionaries({"y": st.integers(0, 5)})),
    "move": Rule(_move, st.fixed_dictionaries({"kind": st.sampled_from(list(MOVES))})),
    "real conv": Rule(_real_conv, st.fixed_dictionaries(_layer | {"kernel": _two(1, 3)})),
    "transposed": Rule(
        _transposed,
        st.fixed_dictionaries(
            _layer
            | {
                "kernel": _two(2, 3, 1),
                "stride": _two(2, 1),
                "padding": _two(0, 1),
                "groups": st.sampled_from(["1", "2"]),
            }
        ),
    ),
    "gate": Rule(_gate, st.just({})),
    "downsample": Rule(_downsample, st.fixed_dictionaries({"outputs": _channels})),
}
"""Kind of step by name."""

# SPDX-License-Identifier: Apache-2.0
"""Steps between the layers: signs, pools, sums, and what only moves values."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fuzz.build import Build, Value, any_value, is_map
from tests.fuzz.layers import Downsample, Gate, Signed
from tests.fuzz.pointwise import POINTWISE, Apply
from tests.fuzz.spec import Step
from tests.idioms.signs import SIGNS


def sign(build: Build, step: Step) -> bool:
    x = build.pick(step.x, lambda value: any_value(value) and value.levels is None)
    if x is None:
        return False
    idiom = step.args["sign"]
    build.add(Signed(idiom), x, levels=SIGNS[idiom].levels)
    return True


def pointwise(build: Build, step: Step) -> bool:
    x = build.pick(step.x, lambda value: any_value(value) and value.levels is None)
    if x is None:
        return False
    build.add(POINTWISE[step.args["kind"]](build, x.shape), x)
    return True


def window(build: Build, step: Step) -> bool:
    args = step.args
    kind, size, stride, border = (args[k] for k in ("kind", "size", "stride", "padding"))
    border = min(border, size // 2)
    x = build.pick(step.x, lambda v: is_map(v) and min(v.shape[2:]) + 2 * border >= size)
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
    x = build.pick(step.x, any_value)
    if x is None:
        return []
    y = build.pick(step.args["y"], lambda value: value.index != x.index and same(x, value))
    return [] if y is None else [x, y]


def add(build: Build, step: Step) -> bool:
    pair = _pair(build, step, lambda a, b: a.shape == b.shape)
    if pair:
        build.add({"sum": _Sum, "product": _Product}[step.args["kind"]](), *pair)
    return bool(pair)


def concat(build: Build, step: Step) -> bool:
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
    "channel shuffle": Move(lambda v: is_map(v) and v.shape[1] % 2 == 0, _shuffled(2), True),
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


def move(build: Build, step: Step) -> bool:
    move = MOVES[step.args["kind"]]
    x = build.pick(step.x, move.fits)
    if x is None:
        return False
    build.add(Apply(move.function), x, levels=x.levels if move.keeps_signs else None)
    return True


def gate(build: Build, step: Step) -> bool:
    x = build.pick(step.x, is_map)
    if x is None:
        return False
    hidden = max(1, x.shape[1] // 4)
    build.add(Gate(build.normal(hidden, x.shape[1]), build.normal(x.shape[1], hidden)), x)
    return True


def downsample(build: Build, step: Step) -> bool:
    x = build.pick(step.x, lambda value: value.tensor.dim() == 4 and min(value.shape[2:]) > 1)
    if x is None:
        return False
    build.add(Downsample(build.normal(step.args["outputs"], x.shape[1], 1, 1)), x)
    build.expect(False)
    return True

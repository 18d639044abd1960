# SPDX-License-Identifier: Apache-2.0
"""Moves between binary layers cost one copy at most, and bits move as words."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tests.differential import assert_same
from tests.frontend.nets import Function
from tests.relax_modules import operators
from xnortvm.transform.rearrange import common_parts


def sign(x: Any) -> Any:
    return torch.where(x >= 0, 1.0, -1.0)


class Between(nn.Module):
    """Binary convolution → batch norm → a move → binary convolution."""

    def __init__(self, move: Callable[[Any], Any], channels: int, *, bits: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Parameter(torch.randn(16, 8, 3, 3))
        self.second = nn.Parameter(torch.randn(5, channels, 3, 3))
        self.norm, self.move, self.bits = nn.BatchNorm2d(16), move, bits

    def forward(self, x: Any) -> Any:
        y = self.norm(F.conv2d(sign(x), self.first.sign(), padding=1)) + 0.1
        y = self.move(sign(y)) if self.bits else sign(self.move(y))
        return F.conv2d(y, self.second.sign(), padding=1)


def shuffle(y: Any) -> Any:
    n, c, h, w = y.shape
    return y.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)


#: A move, the channels behind it, and how many transposes it may leave in the network.
MOVES: dict[str, tuple[Callable[[Any], Any], int, int]] = {
    "channel shuffle": (shuffle, 16, 1),
    "pixel shuffle": (lambda y: F.pixel_shuffle(y, 2), 4, 1),
    "pixel unshuffle": (lambda y: F.pixel_unshuffle(y, 2), 64, 1),
    "there and back": (lambda y: (y.permute(0, 2, 3, 1) * 2).permute(0, 3, 1, 2), 16, 0),
    "columns for rows": (lambda y: y.transpose(2, 3), 16, 1),
    "flat and back": (lambda y: (y.flatten(2) * 2).view(y.shape), 16, 0),
    "upsampled": (lambda y: F.interpolate(y, scale_factor=2, mode="nearest"), 16, 0),
    "upsampled by 3 and 1": (lambda y: F.interpolate(y, size=(18, 4), mode="nearest"), 16, 0),
    "mirrored border": (lambda y: F.pad(y, (1, 1, 1, 1), mode="reflect"), 16, 0),
    "repeated border": (lambda y: F.pad(y, (0, 1, 2, 0), mode="replicate"), 16, 0),
    "cut": (lambda y: y[:, :, 1:, ::2], 16, 0),
    "half of the channels": (lambda y: y.chunk(2, 1)[1], 8, 0),
    "parts joined again": (lambda y: torch.cat(y.split([3, 5, 8], 1)[::-1], 1), 16, 0),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_between_binary_layers_are_cheap_and_equal_eager(name):
    move, channels, transposes = MOVES[name]
    for bits in (False, True):
        lowered = assert_same(
            Between(move, channels, bits=bits), torch.randn(2, 8, 6, 4), binary=2, exact=True
        )
        found = operators(lowered.mod).count("permute_dims")
        assert found - 2 <= transposes  # one where the data enter, one where they leave


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: F.avg_pool2d(x, 1).reshape(2, 4, 12, 4).transpose(1, 3).reshape(2, 48, 4),
        lambda x: F.avg_pool2d(x, 1).permute(1, 0, 2, 3).reshape(16, 24),
        lambda x: F.avg_pool2d(x, 1).permute(0, 3, 1, 2).reshape(2, 4, 8, 2, 3) + torch.arange(3.0),
        lambda x: F.avg_pool2d(x, 1).reshape(2, 192).view(2, 6, 8, 4) * 2,
        lambda x: F.avg_pool2d(x, (6, 4)).permute(0, 2, 3, 1).reshape(2, 8) * torch.arange(8.0),
        lambda x: sum(F.avg_pool2d(x, 1).split([1, 2, 5], 1)[0:1]) * torch.arange(4.0),
        lambda x: F.avg_pool2d(x, 1).chunk(3, 2)[2].flatten(1) * torch.arange(64.0),
    ],
)
def test_other_rearrangements_equal_eager(forward):
    torch.manual_seed(0)
    assert_same(Function(forward), torch.randn(2, 8, 6, 4), binary=0)


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    cuts=st.tuples(st.sets(st.integers(1, 5)), st.sets(st.integers(1, 5))),
)
def test_parts_multiply_to_both_shapes(parts, cuts):
    def joined(places: set[int]) -> tuple[int, ...]:
        bounds = [0, *sorted(p for p in places if p < len(parts)), len(parts)]
        return tuple(prod(parts[a:b]) for a, b in pairwise(bounds))

    source, target = map(joined, cuts)
    found = common_parts(source, target)
    if found is None:
        return  # dimensions that do not divide each other stay as they are
    sizes, before, after = found
    for shape, lists in ((source, before), (target, after)):
        assert [prod(sizes[part] for part in each) for each in lists] == list(shape)
        assert [part for each in lists for part in each] == list(range(len(sizes)))
    x = np.arange(prod(parts))
    np.testing.assert_array_equal(x.reshape(sizes).reshape(source).reshape(-1), x)

# SPDX-License-Identifier: Apache-2.0
"""Γ of every shape, in front of every activation: exact up to the next bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.differential import assert_same, randomize
from tests.idioms.structures import BN, Shift, plain

#: Γ by case of the paper: factors for 8 channels on a 6 × 5 map.
GAMMAS = {
    "scalar": [()],
    "case 1": [(8, 1, 1)],
    "case 2": [(8, 6, 5)],
    "case 3": [(8, 1, 1), (1, 6, 5)],
    "case 4": [(8, 1, 1), (1, 6, 1), (1, 1, 5)],
}


class Scaled(nn.Module):
    """conv · Γ → activation → batch norm → sign → conv, once for each activation."""

    def __init__(self, shapes: list[tuple[int, ...]], product_first: bool) -> None:
        super().__init__()
        self.factors = nn.ParameterList(torch.randn(shape) * 0.3 for shape in shapes)
        if shapes[0]:
            self.factors[0].data[2] = 0
        self.product_first = product_first
        self.first = nn.ModuleList(plain() for _ in range(5))
        self.second = nn.ModuleList(plain() for _ in range(5))
        self.norms = nn.ModuleList(BN(8) for _ in range(5))
        self.enter, self.slopes, self.shift = BN(8), nn.PReLU(8), Shift()

    def gamma(self, y: Any) -> Any:
        if not self.product_first:
            for factor in self.factors:
                y = y * factor
            return y
        product = self.factors[0]
        for factor in self.factors[1:]:
            product = product * factor
        return y * product

    def forward(self, x: Any) -> Any:
        activations = (nn.Identity(), self.slopes, F.relu, F.hardtanh, self.shift)
        v = torch.sign(self.enter(x))
        return tuple(
            second(torch.sign(norm(activation(self.gamma(first(v))))))
            for first, second, norm, activation in zip(
                self.first, self.second, self.norms, activations, strict=True
            )
        )


@pytest.mark.parametrize("product_first", [False, True])
@pytest.mark.parametrize("name", GAMMAS)
def test_gamma_is_exact_up_to_the_next_bits(name: str, product_first: bool) -> None:
    if product_first and len(GAMMAS[name]) == 1:
        return
    torch.manual_seed(0)
    model = randomize(Scaled(GAMMAS[name], product_first))
    lowered = assert_same(model, torch.randn(2, 8, 6, 5), binary=10, exact=True)
    if name == "case 4":  # the factors of every layer, never one number for each channel and pixel
        assert all(row.bytes_after < 4 * 8 * 6 * 5 + 800 for row in lowered.report.layers)

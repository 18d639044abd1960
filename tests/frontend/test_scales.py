# SPDX-License-Identifier: Apache-2.0
"""Γ = α ⊗ β ⊗ γ stays factored however it is multiplied; a dense Γ stays dense."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.frontend.nets import (
    WAYS,
    Function,
    Named,
    assert_same,
    calls,
    constants,
    operators,
    outputs,
)
from xnortvm.frontend import import_model
from xnortvm.frontend.factors import outer_factors

CHANNELS, H, W = 24, 18, 20


class Scaled(nn.Module):
    """Multiplies by factors α[o,1,1], β[1,h,1], γ[1,1,w]."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.randn(CHANNELS, 1, 1))
        self.beta = nn.Parameter(torch.randn(1, H, 1))
        self.gamma = nn.Parameter(torch.randn(1, 1, W))
        self.alpha.data[3] = 0.0


class Product(Scaled):
    def forward(self, y):
        return y * (self.alpha * self.beta * self.gamma)


class ProductFirst(Scaled):
    def forward(self, y):
        return (self.gamma * self.beta) * self.alpha * y


class OneByOne(Scaled):
    def forward(self, y):
        return y * self.alpha * self.gamma * self.beta


class ByMatmul(Scaled):
    """Γ out of two matrix products, reshaped and expanded."""

    def forward(self, y):
        plane = torch.matmul(self.alpha.view(CHANNELS, 1), self.beta.view(1, H))
        cube = torch.matmul(plane.flatten().unsqueeze(1), self.gamma.view(1, W))
        return y * cube.reshape(CHANNELS, H, W).unsqueeze(0).expand(y.size())


class ChannelAndPlane(Scaled):
    """Case 3: α ⊗ β with β[h, w]."""

    def __init__(self) -> None:
        super().__init__()
        self.plane = nn.Parameter(torch.randn(1, H, W))

    def forward(self, y):
        return y * (self.alpha * self.plane)


class Expanded(Scaled):
    """α repeated over the map."""

    def forward(self, y):
        return y * self.alpha.expand(y.size())


class Dense(Scaled):
    """Case 2: as many numbers as positions."""

    def __init__(self) -> None:
        super().__init__()
        self.full = nn.Parameter(torch.randn(1, CHANNELS, H, W))

    def forward(self, y):
        return y * self.full


SIZES = {
    "Product": CHANNELS + H + W,
    "ProductFirst": CHANNELS + H + W,
    "OneByOne": CHANNELS + H + W,
    "ByMatmul": CHANNELS + H + W,
    "ChannelAndPlane": CHANNELS + H * W,
    "Expanded": CHANNELS,
    "Dense": CHANNELS * H * W,
}
"""Row to the numbers that its Γ may take."""


@pytest.fixture(scope="module", params=list(WAYS))
def scaled(request, tmp_path_factory):
    torch.manual_seed(5)
    module = Named({name: globals()[name]() for name in SIZES})
    y = torch.randn(2, CHANNELS, H, W)
    imported = WAYS[request.param](module, y, tmp_path_factory.mktemp("scales"))
    with torch.no_grad():
        expected = module(y)
    return imported, dict(zip(expected, outputs(imported, y), strict=True)), expected


@pytest.mark.parametrize("row", SIZES)
def test_scaled_values_are_those_of_eager(scaled, row):
    _, found, expected = scaled
    assert_same(found[row], expected[row])


def test_constants_together_are_no_larger_than_the_factors(scaled):
    imported, _, _ = scaled
    assert sum(value.size for value in constants(imported)) == sum(SIZES.values())


def test_product_arrives_as_successive_multiplications():
    imported = import_model(Product(), torch.ones(1, CHANNELS, H, W))
    assert operators(imported) == ["multiply"] * 3
    assert [value.shape for value in constants(imported)] == [
        (CHANNELS, 1, 1),
        (1, H, 1),
        (1, 1, W),
    ]


def test_factors_multiply_to_the_product_with_exact_zeros():
    random = np.random.default_rng(0)
    alpha, beta = random.standard_normal((7, 1, 1)), random.standard_normal((1, 5, 6))
    alpha[2] = 0
    product = (alpha * beta).astype("float32")
    first, second = outer_factors(product)
    assert (first.shape, second.shape) == ((7, 1, 1), (1, 5, 6))
    np.testing.assert_allclose(first * second, product, rtol=1e-6)
    assert ((first * second == 0) == (product == 0)).all()


def test_factors_of_small_whole_numbers_are_exact():
    alpha = np.array([1, -2, 3, 4], "float32").reshape(4, 1)
    beta = np.array([2, 0.5, -1, 8], "float32").reshape(1, 4)
    first, second = outer_factors(alpha * beta)
    np.testing.assert_array_equal(first * second, alpha * beta)


@pytest.mark.parametrize(
    "value",
    [
        np.random.default_rng(1).standard_normal((5, 4, 3)).astype("float32"),
        np.array([[1.0, np.nan], [2.0, 3.0]], "float32"),
        np.zeros((4, 4), "float32"),
        np.arange(16).reshape(4, 4),
    ],
    ids=["random", "nan", "zeros", "integers"],
)
def test_does_not_split_what_is_no_outer_product(value):
    assert len(outer_factors(value)) == 1


def test_does_not_split_a_product_with_one_wrong_element():
    value = np.outer(np.arange(1.0, 9), np.arange(1.0, 7)).astype("float32")
    value[3, 2] *= 1.00001
    assert len(outer_factors(value)) == 1


def test_does_not_narrow_a_constant_that_gives_the_result_its_shape():
    imported = import_model(Function(lambda x: x + torch.ones(4, 3)), torch.ones(1, 3))
    (add,) = calls(imported, "add")
    assert add.args[1].value.numpy().shape == (4, 3)


def test_bias_of_activation_size_keeps_the_axes_along_which_it_varies():
    bias = torch.arange(3.0).view(3, 1, 1).expand(2, 3, 4, 5).contiguous()
    imported = import_model(Function(lambda x: x + bias), torch.ones(2, 3, 4, 5))
    (add,) = calls(imported, "add")
    assert add.args[1].value.numpy().shape == (1, 3, 1, 1)

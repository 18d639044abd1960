# SPDX-License-Identifier: Apache-2.0
"""Promises of xnortvm.models.ste."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xnortvm.models import ESTIMATORS, sign

NEXT_BELOW_1 = 1 - 2**-24
POINTS = [-3.0, -1.0, -NEXT_BELOW_1, -0.75, -0.25, -0.0, 0.0, 0.25, 0.75, NEXT_BELOW_1, 1.0, 3.0]


def gradient(estimator: str, zero: str, dtype: torch.dtype = torch.float32) -> list[float]:
    x = torch.tensor(POINTS, dtype=dtype, requires_grad=True)
    (grad,) = torch.autograd.grad((sign(x, estimator, zero) * 3).sum(), x)
    assert grad.dtype == dtype
    return (grad / 3).tolist()


class SignOnly(nn.Module):
    def __init__(self, estimator: str, zero: str) -> None:
        super().__init__()
        self.estimator, self.zero = estimator, zero
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return sign(x, self.estimator, self.zero) + sign(self.weight, self.estimator, self.zero)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_zero_option_decides_the_sign_of_both_zeros(estimator: str, dtype: torch.dtype) -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 1e-7, -1e-7], dtype=dtype)
    for zero, at_zero in (("0", 0.0), ("+1", 1.0)):
        y = sign(x, estimator, zero)
        assert y.dtype == dtype
        assert y.tolist() == [-1.0, at_zero, at_zero, 1.0, -1.0]


@pytest.mark.parametrize("zero", ["0", "+1"])
def test_clipped_gradient_is_one_strictly_inside_and_zero_from_one_on(zero: str) -> None:
    assert gradient("clipped", zero) == [float(abs(x) < 1) for x in POINTS]


@pytest.mark.parametrize("zero", ["0", "+1"])
def test_polynomial_gradient_is_that_of_the_piecewise_quadratic(zero: str) -> None:
    def derivative(x: float) -> float:
        if -1 <= x < 0:
            return 2 + 2 * x
        return 2 - 2 * x if 0 <= x < 1 else 0.0

    assert gradient("polynomial", zero, torch.float64) == pytest.approx(
        [derivative(x) for x in POINTS], abs=1e-15
    )


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("zero", "expected"), [("0", {"sign"}), ("+1", {"ge", "where", "scalar_tensor"})]
)
def test_export_holds_nothing_of_the_estimator(
    estimator: str, zero: str, expected: set[str], strict: bool
) -> None:
    program = torch.export.export(SignOnly(estimator, zero), (torch.randn(3),), strict=strict)
    graph = program.run_decompositions().graph
    names = {n.target.overloadpacket.__name__ for n in graph.nodes if n.op == "call_function"}
    assert names == expected | {"add"}


def test_unknown_estimator_or_zero_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"'tanh'.*clipped, polynomial"):
        sign(torch.ones(1), "tanh")
    with pytest.raises(ValueError, match=r"'-1'.*0, \+1"):
        sign(torch.ones(1), zero="-1")

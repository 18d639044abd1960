# SPDX-License-Identifier: Apache-2.0
"""How people write sign: one table for the tests of the front ends, the coverage page and fuzzing.

Each spelling is a function of one tensor that works at any floating precision, so that the same
network can be run in float64 to see how close its signs come to a change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Sign(NamedTuple):
    """One spelling.

    Attributes
    ----------
    fn : callable
        From a tensor to its two-valued tensor.
    levels : (float, float)
        The values below and above the threshold.
    threshold : float
        Where it changes.
    at_threshold : float
        Its value there.
    """

    fn: Callable[[Tensor], Tensor]
    levels: tuple[float, float] = (-1.0, 1.0)
    threshold: float = 0.0
    at_threshold: float = 0.0


class Estimator(torch.autograd.Function):
    """Sign with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return sign(x)."""
        return x.sign()


def _one(x: Tensor) -> Tensor:
    return torch.tensor(1.0, dtype=x.dtype)


def assigned(x: Tensor) -> Tensor:
    """Micronet: the zeros of torch.sign are assigned by a mask."""
    s = torch.sign(x)
    s[s == 0] = 1
    return s


def bi_real(x: Tensor) -> Tensor:
    """Bi-Real Net: sign, and a quadratic surrogate for the gradient."""
    below, negative, small = ((x < bound).type(x.dtype) for bound in (-1, 0, 1))
    first = -1 * below + (x * x + 2 * x) * (1 - below)
    second = first * negative + (-x * x + 2 * x) * (1 - negative)
    third = second * small + 1 * (1 - small)
    return torch.sign(x).detach() - third.detach() + third


def clipped(x: Tensor) -> Tensor:
    """BNext: sign, and a clamp for the gradient."""
    c = torch.clamp(x, -1, 1)
    return (torch.sign(x) - c).detach() + c


def sign_or_one(x: Tensor) -> Tensor:
    """Bitorch: sign with sign(0) = +1."""
    s = torch.sign(x)
    return torch.where(s == 0, _one(x), s)


SIGNS: dict[str, Sign] = {
    "autograd function": Sign(lambda x: Estimator.apply(x)),
    "sign": Sign(torch.sign),
    "minus sign": Sign(lambda x: -torch.sign(x), (1.0, -1.0)),
    "where zero": Sign(sign_or_one, at_threshold=1.0),
    "where greater": Sign(lambda x: torch.where(x > 0, _one(x), -_one(x)), at_threshold=-1.0),
    "where greater or equal": Sign(lambda x: torch.where(x >= 0, 1.0, -1.0), at_threshold=1.0),
    "where less": Sign(lambda x: torch.where(x < 0, -1.0, 1.0), at_threshold=1.0),
    "twice a cast": Sign(lambda x: (x >= 0).to(x.dtype) * 2 - 1, at_threshold=1.0),
    "twice a float": Sign(lambda x: 2 * x.gt(0).float() - 1, at_threshold=-1.0),
    "twice a bool": Sign(lambda x: (x >= 0) * 2.0 - 1.0, at_threshold=1.0),
    "masked fill": Sign(lambda x: torch.ones_like(x).masked_fill_(x < 0, -1), at_threshold=1.0),
    "mask assigned": Sign(assigned, at_threshold=1.0),
    "sign of shifted sign": Sign(lambda x: torch.sign(torch.sign(x) + 0.1), at_threshold=1.0),
    "sign of sign": Sign(lambda x: torch.sign(torch.sign(x))),
    "units": Sign(lambda x: x.div(1).sign().mul(1)),
    "bi-real": Sign(bi_real),
    "clipped surrogate": Sign(clipped),
    "clipped first": Sign(lambda x: torch.sign(torch.clamp(x / 0.7, -1, 1))),
    "tanh first": Sign(lambda x: torch.sign(torch.tanh(x * 5))),
    "hardtanh first": Sign(lambda x: torch.sign(nn.functional.hardtanh(x))),
    "rounded": Sign(
        lambda x: torch.round(torch.clamp((x + 1) / 2, 0, 1)) * 2 - 1, (-1.0, 1.0), 0.0, -1.0
    ),
    "zero or s": Sign(lambda x: 0.5 * (x > 0.15).to(x.dtype), (0.0, 0.5), 0.15, 0.0),
    "zero or one": Sign(lambda x: torch.sign(nn.functional.relu(x)), (0.0, 1.0)),
    "two masks": Sign(lambda x: (x >= 0).to(x.dtype) - (x < 0).to(x.dtype), at_threshold=1.0),
    "scaled": Sign(lambda x: torch.sign(x) * 0.3, (-0.3, 0.3)),
    # Its threshold is no multiple of ½, which data with "few" values would meet.
    "affine": Sign(lambda x: 0.5 * torch.sign(x / 2.0 - 0.3) + 0.125, (-0.375, 0.625), 0.6, 0.125),
    "copysign": Sign(lambda x: torch.copysign(_one(x), x), at_threshold=1.0),
}
"""Spelling by name, patterns of public code first."""

# SPDX-License-Identifier: Apache-2.0
"""sign() with a straight-through estimator of its gradient.

The forward pass is exactly the operator that inference runs: ``sign`` for ``zero="0"``, a compare
and a select for ``zero="+1"``. The estimator lives in the backward pass alone, so that an exported
graph holds no ``sign - surrogate + surrogate`` arithmetic and its values are exactly -1, (0) and
+1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor


def _sign_or_zero(x: Tensor) -> Tensor:
    return torch.sign(x)


def _sign_or_one(x: Tensor) -> Tensor:
    signs = torch.where(x >= 0, 1.0, -1.0)
    return signs if signs.dtype == x.dtype else signs.to(x.dtype)


SIGN_ZERO: dict[str, Callable[[Tensor], Tensor]] = {"0": _sign_or_zero, "+1": _sign_or_one}
"""What sign gives at exactly 0: "0" is ``torch.sign`` and the paper, "+1" is ``x >= 0``."""


class ClippedSign(torch.autograd.Function):
    """Gradient 1 where ``|x| < 1`` and 0 elsewhere (BinaryNet, XNOR-Net, XNOR-Net++)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, zero: str) -> Tensor:
        ctx.save_for_backward(x)
        return SIGN_ZERO[zero](x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grads[0] * (x.abs() < 1).to(x.dtype), None


class PolynomialSign(torch.autograd.Function):
    """Gradient ``2 - 2|x|`` where ``|x| < 1`` and 0 elsewhere.

    It is the derivative of Bi-Real Net's piecewise quadratic: ``2x + x²`` for -1 <= x < 0 and ``2x
    - x²`` for 0 <= x < 1.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, zero: str) -> Tensor:
        ctx.save_for_backward(x)
        return SIGN_ZERO[zero](x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grads[0] * (2 - 2 * x.abs()).clamp_min(0), None


ESTIMATORS: dict[str, type[torch.autograd.Function]] = {
    "clipped": ClippedSign,
    "polynomial": PolynomialSign,
}
"""The estimators of the gradient of sign, by name."""


def check_sign(estimator: str, zero: str) -> None:
    """Raise ValueError unless both names are known.

    Parameters
    ----------
    estimator : str
        A key of `ESTIMATORS`.
    zero : str
        A key of `SIGN_ZERO`.

    Raises
    ------
    ValueError
        Naming the valid values.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(
            f"unknown gradient estimator {estimator!r}; valid: {', '.join(ESTIMATORS)}"
        )
    if zero not in SIGN_ZERO:
        raise ValueError(f"unknown value of sign(0) {zero!r}; valid: {', '.join(SIGN_ZERO)}")


def sign(x: Tensor, estimator: str = "clipped", zero: str = "0") -> Tensor:
    """Sign of every element, differentiable through an estimator.

    Parameters
    ----------
    x : Tensor
        Any shape, floating point.
    estimator : {"clipped", "polynomial"}
        How the gradient is estimated.
    zero : {"0", "+1"}
        The value at exactly 0 (and at -0.0). A NaN gives NaN under "0" and -1 under "+1".

    Returns
    -------
    Tensor
        Shape and dtype of `x`, values -1 and +1, and 0 under ``zero="0"``.

    Raises
    ------
    ValueError
        For an unknown `estimator` or `zero`.

    Examples
    --------
    >>> sign(torch.tensor([-2.0, 0.0, 0.5]), zero="+1").tolist()
    [-1.0, 1.0, 1.0]
    """
    check_sign(estimator, zero)
    if torch.compiler.is_exporting():
        # export(strict=True) would wrap an autograd.Function into a sub-graph of its own.
        return SIGN_ZERO[zero](x)
    return cast(Tensor, ESTIMATORS[estimator].apply(x, zero))  # type: ignore[no-untyped-call]

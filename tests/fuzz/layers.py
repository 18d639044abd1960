# SPDX-License-Identifier: Apache-2.0
"""Binary layers as the steps of a spec describe them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fuzz.probe import signed
from tests.idioms.weights import Weight

_CONV = {3: F.conv1d, 4: F.conv2d}
_TRANSPOSED = {3: F.conv_transpose1d, 4: F.conv_transpose2d}


class Signed(nn.Module):
    """A sign by itself, for several readers."""

    def __init__(self, idiom: str) -> None:
        super().__init__()
        self.idiom = idiom

    def forward(self, x: Tensor) -> Tensor:
        return signed(self.idiom, x)


class Binary(nn.Module):
    """before → sign → layer by computed weights → after → residual.

    Parameters
    ----------
    weight : Weight
        Out channels first (in channels first for transposed convolutions).
    bias : Tensor, optional
    idiom : str
        Spelling of the sign; "" when the input is a sign already, or real.
    """

    def __init__(self, weight: Weight, bias: Tensor | None, idiom: str) -> None:
        super().__init__()
        self.kernel = weight
        self.bias = None if bias is None else nn.Parameter(bias)
        self.idiom = idiom
        self.before = nn.Sequential()
        self.after = nn.Sequential()
        self.residual = False

    def enter(self, x: Tensor) -> Tensor:
        """Return what the layer reads."""
        x = self.before(x)
        return signed(self.idiom, x) if self.idiom else x

    def layer(self, x: Tensor, v: Tensor) -> Tensor:
        """Return what the layer computes; `x` is its input before the sign."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = self.after(self.layer(x, self.enter(x)))
        return y + x if self.residual else y


class Conv(Binary):
    """1-D or 2-D convolution.

    Parameters
    ----------
    attrs : dict
        stride, padding, dilation, groups.
    pad : list of int
        Explicit padding before the convolution as for F.pad; empty for none.
    pad_value : float
    """

    def __init__(
        self,
        weight: Weight,
        bias: Tensor | None,
        idiom: str,
        attrs: dict[str, Any],
        pad: list[int],
        pad_value: float,
    ) -> None:
        super().__init__(weight, bias, idiom)
        self.attrs, self.pad, self.pad_value = attrs, pad, pad_value

    def layer(self, x: Tensor, v: Tensor) -> Tensor:
        if self.pad:
            v = F.pad(v, self.pad, value=self.pad_value)
        return _CONV[v.dim()](v, self.kernel(), self.bias, **self.attrs)


class ScaledByInput(Conv):
    """XNOR-Net's K: box-filtered mean of |x| over the channels."""

    def layer(self, x: Tensor, v: Tensor) -> Tensor:
        y = super().layer(x, v)
        kernel = self.kernel().shape[2:]
        size = 1
        for extent in kernel:
            size *= extent
        box = torch.ones(1, 1, *kernel, dtype=x.dtype) / size
        attrs = {name: value for name, value in self.attrs.items() if name != "groups"}
        magnitude = self.before(x).abs().mean(1, keepdim=True)
        if self.pad:
            magnitude = F.pad(magnitude, self.pad)
        return y * _CONV[v.dim()](magnitude, box, **attrs)


class Transposed(Binary):
    """1-D or 2-D transposed convolution."""

    def __init__(
        self, weight: Weight, bias: Tensor | None, idiom: str, attrs: dict[str, Any]
    ) -> None:
        super().__init__(weight, bias, idiom)
        self.attrs = attrs

    def layer(self, x: Tensor, v: Tensor) -> Tensor:
        return _TRANSPOSED[v.dim()](v, self.kernel(), self.bias, **self.attrs)


class Linear(Binary):
    """Linear layer behind a flatten; `rows` multiplies by mean |x| of each row before it."""

    def __init__(
        self, weight: Weight, bias: Tensor | None, idiom: str, flatten: str, rows: bool
    ) -> None:
        super().__init__(weight, bias, idiom)
        self.flatten, self.rows = flatten, rows

    def enter(self, x: Tensor) -> Tensor:
        if self.flatten == "after":
            return torch.flatten(super().enter(x), 1)
        return super().enter(torch.flatten(x, 1) if self.flatten == "before" else x)

    def layer(self, x: Tensor, v: Tensor) -> Tensor:
        if self.rows:
            v = v * torch.flatten(x, 1).abs().mean(1, keepdim=True)
        return F.linear(v, self.kernel(), self.bias)


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3)) if x.dim() == 4 else x.mean(2)
        gate = torch.sigmoid(F.linear(F.relu(F.linear(squeezed, self.down)), self.up))
        return x * gate.reshape(*gate.shape, *[1] * (x.dim() - 2))


class Downsample(nn.Module):
    """Average pool, 1×1 convolution."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
        return F.conv2d(pooled, self.weight)

# SPDX-License-Identifier: Apache-2.0
"""Networks as people build them: residuals, dense connections, gates, shuffles, pools, paddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from tests.differential import randomize

BN = nn.BatchNorm2d


class Binary(nn.Conv2d):
    """sign(x) ⊛ sign(W)·mean|W|."""

    def forward(self, x: Any) -> Any:
        weight = self.weight.sign() * self.weight.abs().mean((1, 2, 3), keepdim=True)
        return self._conv_forward(torch.sign(x), weight, self.bias)


def conv(i: int = 8, o: int = 8, k: int = 3, **attrs: Any) -> Binary:
    return Binary(i, o, k, **{"padding": k // 2, "bias": False} | attrs)


class Sign(nn.Module):
    """sign with +1 at 0."""

    def forward(self, x: Any) -> Any:
        return torch.where(x >= 0, 1.0, -1.0)


class Plain(nn.Conv2d):
    """x ⊛ sign(W): the sign is elsewhere."""

    def forward(self, x: Any) -> Any:
        return self._conv_forward(x, self.weight.sign(), self.bias)


def plain(i: int = 8, o: int = 8, k: int = 3, **attrs: Any) -> Plain:
    return Plain(i, o, k, **{"padding": k // 2, "bias": False} | attrs)


class Shift(nn.Module):
    """A learned bias per channel (RSign, RPReLU)."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.linspace(-1, 1, channels).reshape(1, -1, 1, 1))

    def forward(self, x: Any) -> Any:
        return x + self.bias.expand_as(x)


class Case(NamedTuple):
    """A network: its parts by name, what it does with them, how many layers are binary."""

    forward: Callable[..., Any]
    binary: int
    parts: dict[str, Callable[[], nn.Module]]
    shape: tuple[int, ...]


CASES: dict[str, Case] = {}


def case(binary: int, shape: tuple[int, ...] = (2, 8, 6, 6), **parts: Any) -> Any:
    def add(forward: Callable[..., Any]) -> Any:
        CASES[forward.__name__] = Case(forward, binary, parts, shape)
        return forward

    return add


class Network(nn.Module):
    def __init__(self, made: Case) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: make() for name, make in made.parts.items()})
        self.made = made
        randomize(self)

    def forward(self, *inputs: Any) -> Any:
        return self.made.forward(*self.parts.values(), *inputs)


@case(2, b0=lambda: BN(8), c1=conv, b1=lambda: BN(8), c2=conv, b2=lambda: BN(8))
def bireal(b0: Any, c1: Any, b1: Any, c2: Any, b2: Any, x: Any) -> Any:
    x = b0(x)
    x = b1(c1(x)) + x
    return b2(c2(x)) + x


@case(
    2,
    m1=Shift,
    c1=conv,
    b1=lambda: BN(8),
    m2=Shift,
    p=lambda: nn.PReLU(8),
    m3=Shift,
    c2=lambda: conv(k=1),
    b2=lambda: BN(8),
)
def reactnet(m1: Any, c1: Any, b1: Any, m2: Any, p: Any, m3: Any, c2: Any, b2: Any, x: Any) -> Any:
    y = m3(p(m2(b1(c1(m1(x))) + x)))
    return b2(c2(y)) + y


@case(
    3,
    c1=lambda: conv(8, 16, stride=2),
    b1=lambda: BN(16),
    c2=lambda: conv(16, 16),
    b2=lambda: BN(16),
    c3=lambda: conv(16, 16, 1),
)
def irnet_option_a(c1: Any, b1: Any, c2: Any, b2: Any, c3: Any, x: Any) -> Any:
    y = F.hardtanh(b1(c1(x)))
    y = F.hardtanh(b2(c2(y)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
    return c3(y)


@case(1, c1=lambda: conv(16, 8))
def zero_filled_channels_are_ternary(c1: Any, x: Any) -> Any:
    return c1(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))


@case(2, c1=conv, b1=lambda: BN(8), c2=conv, b2=lambda: BN(8))
def vgg_pool_before_the_sign(c1: Any, b1: Any, c2: Any, b2: Any, x: Any) -> Any:
    return F.hardtanh(b2(c2(F.hardtanh(b1(F.max_pool2d(c1(x), 2))))))


@case(2, b0=lambda: BN(8), c1=lambda: conv(bias=True), b1=lambda: BN(8), c2=conv)
def xnornet(b0: Any, c1: Any, b1: Any, c2: Any, x: Any) -> Any:
    return F.relu(c2(b1(F.max_pool2d(F.relu(c1(b0(x))), 2))))


@case(1, c1=conv)
def input_scale_k(c1: Any, x: Any) -> Any:
    box = torch.ones(1, 1, 3, 3) / 9
    return c1(x) * F.conv2d(x.abs().mean(1, keepdim=True), box, padding=1)


@case(
    4,
    s=Sign,
    a=lambda: plain(padding=0),
    b=lambda: plain(padding=0, stride=(2, 1)),
    c=lambda: plain(padding=0, stride=(1, 2)),
    d=lambda: plain(stride=(1, 2)),
)
def explicit_padding(s: Any, a: Any, b: Any, c: Any, d: Any, x: Any) -> Any:
    v = s(x)
    return (
        a(F.pad(v, (1, 1, 1, 1), value=1.0)),
        b(F.pad(v, (1, 2, 0, 1), value=-1.0)),
        c(F.pad(v, (1, 2, 0, 1))),
        d(F.pad(v, (1, 2, 0, 1))),
    )


@case(0, s=Sign, a=lambda: plain(padding=0), b=plain)
def padding_with_a_third_value_is_refused(s: Any, a: Any, b: Any, x: Any) -> Any:
    return a(F.pad(s(x), (1, 1, 1, 1), value=0.5)), b(F.pad(s(x), (1, 1, 1, 1), value=1.0))


@case(2, c1=conv, b1=lambda: BN(8), c2=conv, b2=lambda: BN(8))
def quicknet(c1: Any, b1: Any, c2: Any, b2: Any, x: Any) -> Any:
    y = b1(F.relu(c1(x))) + x
    return b2(F.relu(c2(y))) + y


@case(
    4,
    b1=lambda: BN(8),
    c1=lambda: conv(8, 4),
    b2=lambda: BN(12),
    c2=lambda: conv(12, 4),
    b3=lambda: BN(16),
    c3=lambda: conv(16, 8),
    c4=lambda: plain(16, 8),
)
def dense_net(b1: Any, c1: Any, b2: Any, c2: Any, b3: Any, c3: Any, c4: Any, x: Any) -> Any:
    y = torch.cat([x, c1(b1(x))], 1)
    y = torch.cat([y, c2(b2(y))], 1)
    return c3(b3(y)), c4(torch.cat([torch.sign(b1(x)), torch.sign(x)], 1))


@case(
    3,
    c1=lambda: conv(groups=2),
    b1=lambda: BN(8),
    p=lambda: nn.PReLU(8),
    c2=lambda: conv(groups=4),
    c3=lambda: conv(8, 16, groups=8),
)
def channel_shuffle_and_groups(c1: Any, b1: Any, p: Any, c2: Any, c3: Any, x: Any) -> Any:
    y = p(b1(c1(x)))
    n, c, h, w = y.shape
    y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
    return c2(y) + y, c3(x)


@case(
    2,
    c1=conv,
    b1=lambda: BN(8),
    f1=lambda: nn.Conv2d(8, 4, 1),
    f2=lambda: nn.Conv2d(4, 8, 1),
    c2=conv,
)
def squeeze_and_excite(c1: Any, b1: Any, f1: Any, f2: Any, c2: Any, x: Any) -> Any:
    y = b1(c1(x))
    return c2(y * torch.sigmoid(f2(F.relu(f1(F.adaptive_avg_pool2d(y, 1))))))


@case(
    2,
    (2, 8, 11),
    b1=lambda: nn.BatchNorm1d(8),
    w1=lambda: nn.Conv1d(8, 12, 5),
    b2=lambda: nn.BatchNorm1d(12),
    p=lambda: nn.PReLU(12),
    w2=lambda: nn.Conv1d(12, 5, 3),
)
def one_dimensional(b1: Any, w1: Any, b2: Any, p: Any, w2: Any, x: Any) -> Any:
    y = F.conv1d(torch.sign(b1(x)), w1.weight.sign(), padding=2, stride=2)
    return F.conv1d(torch.sign(b2(p(y))), w2.weight.sign(), padding=1)


@case(
    4,
    c1=conv,
    b1=lambda: nn.BatchNorm1d(288),
    l1=lambda: nn.Linear(288, 10),
    b2=lambda: nn.BatchNorm1d(10),
    l2=lambda: nn.Linear(10, 4),
    l3=lambda: nn.Linear(72, 4),
)
def linear_after_flatten(c1: Any, b1: Any, l1: Any, b2: Any, l2: Any, l3: Any, x: Any) -> Any:
    y = c1(x)
    z = F.linear(torch.sign(b1(torch.flatten(y, 1))), l1.weight.sign(), l1.bias)
    pooled = torch.flatten(F.max_pool2d(torch.sign(y + 0.1), 2), 1)
    return (
        F.linear(torch.sign(b2(z)), l2.weight.sign()),
        F.linear(pooled, l3.weight.sign()),
    )


@case(6, b=lambda: BN(8), c1=conv, c2=conv, c3=conv, c4=conv, c5=conv, c6=conv)
def sign_after_relu_and_pools(
    b: Any, c1: Any, c2: Any, c3: Any, c4: Any, c5: Any, c6: Any, x: Any
) -> Any:
    y = b(x)
    return (
        c1(F.relu(y)),
        c2(F.relu(y + x)),
        c3(F.max_pool2d(F.relu(y), 3, 2, 1)),
        c4(F.max_pool2d(y, 3, 2, 1)),
        c5(F.avg_pool2d(y, 2)),
        c6(F.avg_pool2d(F.relu(y - 1), 2)),
    )


@case(
    9,
    b=lambda: BN(8),
    c1=plain,
    c2=plain,
    c3=conv,
    c4=conv,
    c5=conv,
    c6=conv,
    c7=conv,
    c8=conv,
    c9=conv,
)
def zeros_on_purpose_stay_exact(
    b: Any, c1: Any, c2: Any, c3: Any, c4: Any, c5: Any, c6: Any, c7: Any, c8: Any, c9: Any, x: Any
) -> Any:
    y = b(x)
    first, second = c1(torch.sign(y)), c2(torch.sign(0.3 - y))
    return (
        c3(first + second),
        c4(F.avg_pool2d(first, 2)),
        c5(F.max_pool2d(first, 2)),
        c6(F.avg_pool2d(torch.sign(y), 2)),
        c7(torch.round(y)),
        c8(y * (y > 0.3)),
        c9(torch.sign(y) * F.relu(y.abs() - 0.5)),
    )


@case(5, b=lambda: BN(8), c1=lambda: plain(8, 4, 1), c2=lambda: plain(8, 4), c3=conv)
def one_sign_many_consumers_and_shared_layers(b: Any, c1: Any, c2: Any, c3: Any, x: Any) -> Any:
    z = torch.sign(b(x))
    return c1(z), c2(z), c1(torch.sign(b(x) + 0.1)), z, c3(b(c3(b(x))))


@case(
    4,
    (3, 8, 7, 6),
    b=lambda: BN(8),
    a=lambda: conv(stride=3, padding=2),
    c=lambda: conv(k=5, dilation=2, padding=4),
    d=lambda: conv(padding=(0, 2), stride=(2, 1)),
    e=lambda: conv(padding=3),
)
def strides_dilations_and_wide_padding(b: Any, a: Any, c: Any, d: Any, e: Any, x: Any) -> Any:
    y = b(x)
    return a(y), c(y), d(y), e(y)


@case(2, (3, 8, 1, 1), b=lambda: BN(8), c1=conv, c2=lambda: conv(k=1))
def maps_of_one_pixel(b: Any, c1: Any, c2: Any, x: Any) -> Any:
    return c2(b(c1(b(x))))


class Up(nn.ConvTranspose2d):
    """A transposed convolution of signs by signs."""

    def forward(self, x: Any) -> Any:
        return F.conv_transpose2d(
            torch.sign(x), self.weight.sign(), stride=self.stride, padding=self.padding
        )


@case(5, u=lambda: Up(8, 8, 4, stride=2, padding=1), b=lambda: BN(8), c=conv)
def transposed_convolution_in_four_parts(u: Any, b: Any, c: Any, x: Any) -> Any:
    return c(b(u(x)))


@case(2, c1=lambda: conv(8, 16), b=lambda: BN(4), c2=lambda: conv(4, 8))
def pixel_shuffle(c1: Any, b: Any, c2: Any, x: Any) -> Any:
    return c2(b(F.pixel_shuffle(c1(x), 2)))


@case(
    2,
    c1=lambda: conv(8, 16, stride=2),
    b=lambda: BN(16),
    s=lambda: nn.Conv2d(8, 16, 1),
    c2=lambda: conv(16, 16),
)
def average_pool_and_1x1_shortcut(c1: Any, b: Any, s: Any, c2: Any, x: Any) -> Any:
    return c2(b(c1(x)) + s(F.avg_pool2d(x, 2)))

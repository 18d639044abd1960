# SPDX-License-Identifier: Apache-2.0
"""Modules as people have them: they work, or one sentence says what to change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import xnortvm
from tests.verify.nets import Function, sign
from xnortvm.errors import ModelError


class Binary(nn.Linear):
    def forward(self, x: Any) -> Any:
        return F.linear(sign(x).to(x.dtype), self.weight.sign(), self.bias)


class Sign(nn.Module):
    def forward(self, weight: Any) -> Any:
        return weight.sign()


def parametrized() -> nn.Module:
    layer = nn.Linear(8, 4)
    parametrize.register_parametrization(layer, "weight", Sign())
    return Function(lambda m, x: m.layer(sign(x)), layer=layer)


class Counting(Binary):
    """Counts its calls in a buffer that nothing reads."""

    def __init__(self) -> None:
        super().__init__(8, 4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Any) -> Any:
        self.calls += 1
        return super().forward(x)


class Scaled(nn.Module):
    """Γ in several factors; all but the first are a slice of the list."""

    def __init__(self, binarise: Callable[[Any], Any] = sign) -> None:
        super().__init__()
        self.factors = nn.ParameterList([torch.rand(8) + 0.5 for _ in range(3)])
        self.layer, self.binarise = nn.Linear(8, 8), binarise

    def forward(self, x: Any) -> Any:
        x = F.linear(self.binarise(x), self.layer.weight.sign()) * self.factors[0]
        for factor in self.factors[1:]:
            x = x * factor
        return x


def twice(layer: nn.Module) -> nn.Module:
    """Call one module two times: only then torch.export cannot slice its lists by tracing."""
    return nn.Sequential(layer, layer)


class BinaryNet(nn.Linear):
    """As in the oldest PyTorch code for binary networks: data are replaced, weights have .org."""

    def forward(self, x: Any) -> Any:
        x.data = sign(x.data)
        if not hasattr(self.weight, "org"):
            self.weight.org = self.weight.data.clone()
        self.weight.data = sign(self.weight.org)
        out = F.linear(x, self.weight)
        if self.bias is not None:
            self.bias.org = self.bias.data.clone()
            out += self.bias.view(1, -1).expand_as(out)
        return out


class BinaryNetConv(nn.Conv2d):
    def forward(self, x: Any) -> Any:
        x.data = sign(x.data)
        if not hasattr(self.weight, "org"):
            self.weight.org = self.weight.data.clone()
        self.weight.data = sign(self.weight.org)
        return F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)


class Clamping(nn.Linear):
    def forward(self, x: Any) -> Any:
        self.weight.data.clamp_(-1, 1)
        return F.linear(sign(x), self.weight.sign())


class Annealed(Clamping):
    """The weights become binary as a temperature falls, which is a buffer."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("temperature", torch.full((1,), 1e-6))

    def forward(self, x: Any) -> Any:
        weight = (self.weight / self.temperature.clamp(min=1e-8)).clamp(-1, 1)
        if self.temperature < 1e-5:
            weight = weight.sign()
        return F.linear(sign(x), weight)


def binary_net(*, run: bool) -> nn.Module:
    conv = BinaryNetConv(3, 8, 3, padding=1)
    model = nn.Sequential(
        nn.Hardtanh(), conv, nn.BatchNorm2d(8), nn.Hardtanh(), nn.Flatten(), BinaryNet(128, 4)
    ).eval()
    if run:  # weights then have .org already
        model(IMAGE)
    return model


@torch.compiler.disable
def unread_sign(x: Any) -> Any:
    """A function whose bytecode PyTorch may not read."""
    return sign(x)


class Pair(NamedTuple):
    a: Any
    b: Any


IMAGE = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
LINEAR: dict[str, Callable[[], nn.Module]] = {"a": lambda: nn.Linear(8, 4)}


def of(function: Callable[..., Any]) -> nn.Module:
    return Function(function, a=nn.Linear(8, 4))


WORKING: dict[str, tuple[Callable[[], nn.Module], Any, int]] = {
    "training mode": (
        lambda: nn.Sequential(
            nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), Binary(8, 4)
        ).train(),
        (X,),
        1,
    ),
    "slices of a shared list": (lambda: twice(Scaled()), (X,), 2),
    "replaced data": (lambda: binary_net(run=False), (IMAGE,), 2),
    "clamped data": (lambda: Clamping(8, 4), (X,), 1),
    "branch on a buffer": (lambda: Annealed(8, 4), (X,), 1),
    "replaced data, after a call": (lambda: binary_net(run=True), (IMAGE,), 2),
    "torch.compile": (lambda: torch.compile(nn.Sequential(Binary(8, 4))), (X,), 1),
    "DataParallel": (lambda: nn.DataParallel(nn.Sequential(Binary(8, 4))), (X,), 1),
    "parametrized weight": (parametrized, (X,), 1),
    "weight norm": (lambda: nn.Sequential(parametrizations.weight_norm(Binary(8, 4))), (X,), 1),
    "spectral norm": (
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(8, 8)), Binary(8, 4)),
        (X,),
        1,
    ),
    "double": (lambda: Binary(8, 4).double(), (X.double(),), 0),
    "half": (lambda: Binary(8, 4).half(), (X.half(),), 0),
    "a counter": (Counting, (X,), 1),
    "a dict": (lambda: of(lambda m, d: m.a(d["x"]) + d["y"]), ({"x": X, "y": X[:, :4]},), 0),
    "a list": (lambda: of(lambda m, v: m.a(v[0]) + v[1]), ([X, X[:, :4]],), 0),
    "a number": (lambda: of(lambda m, x, k: m.a(x) * k), (X, 2), 0),
    "None": (lambda: of(lambda m, x, k: m.a(x) if k is None else x), (X, None), 0),
    "named tuple returned": (lambda: of(lambda m, x: Pair(m.a(x), x)), (X,), 0),
    "nested list returned": (lambda: of(lambda m, x: [m.a(x), {"k": x}]), (X,), 0),
    "None returned": (lambda: of(lambda m, x: (m.a(x), None, 3)), (X,), 0),
    "no parameters": (nn.Identity, (X,), 0),
    "a scalar": (lambda: Function(lambda m, x: x * 2), (torch.tensor(3.0),), 0),
    "bool": (lambda: Function(lambda m, x: x.float() * 2), (torch.tensor([True, False]),), 0),
    "gradients": (lambda: Binary(8, 4), (X.clone().requires_grad_(),), 1),
    "strided": (lambda: Binary(8, 4), (X.t().contiguous().t(),), 1),
    "NumPy": (lambda: Binary(8, 4), (X.numpy(),), 1),
    "channels last": (
        lambda: nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        (torch.randn(1, 3, 6, 6).to(memory_format=torch.channels_last),),
        0,
    ),
}


@pytest.mark.parametrize("name", list(WORKING))
def test_works_and_is_verified(name: str) -> None:
    torch.manual_seed(0)
    make, inputs, binary = WORKING[name]
    model = make()
    training = [module.training for module in model.modules()]
    report = xnortvm.compile(model, example_inputs=inputs).report
    assert report.verification is not None, report.notes
    assert report.num_binary_ops == binary
    assert [module.training for module in model.modules()] == training


@dataclasses.dataclass
class Out:
    logits: torch.Tensor


class Copying(nn.Linear):
    def forward(self, x: Any) -> Any:
        with torch.no_grad():
            self.weight.copy_(self.weight.sign())
        return F.linear(sign(x), self.weight)


class Casting(nn.Linear):
    def forward(self, x: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x)


REFUSED: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "bfloat16": (lambda: Binary(8, 4).bfloat16(), (X.bfloat16(),), r"is bfloat16.*\.float\(\)"),
    "autocast": (lambda: Casting(8, 4), (X,), "leave out torch.autocast"),
    "another dtype": (lambda: Binary(8, 4).double(), (X,), "pass inputs of the dtype"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(8)), (X,), r"call model\(\*example_inputs\) once"),
    "meta": (lambda: Binary(8, 4).to("meta"), (X,), "meta device and has no values"),
    "TorchScript": (lambda: torch.jit.trace(Binary(8, 4), X), (X,), "is TorchScript"),
    "dataclass": (lambda: of(lambda m, x: Out(m.a(x))), (X,), r"register_dataclass\(Out\)"),
    "slices of a shared list": (
        lambda: twice(Scaled(unread_sign)),
        (X,),
        r"slice a plain list instead, such as list\(self\.blocks\)\[1:\]",
    ),
    "nothing returned": (lambda: of(lambda m, x: None), (X,), "returns no tensor"),
    "no elements": (lambda: Binary(8, 4), (torch.zeros(0, 8),), "0×8, so nothing is computed"),
    "copied weight": (lambda: Copying(8, 4), (X,), "changes its own parameter 'weight'"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_one_sentence_says_what_to_change(name: str) -> None:
    make, inputs, text = REFUSED[name]
    with pytest.raises(ModelError, match=text) as caught:
        xnortvm.compile(make(), example_inputs=inputs)
    assert "\n" not in str(caught.value)


def test_counters_of_the_users_module_stay_what_they_were() -> None:
    model = Counting()
    xnortvm.compile(model, example_inputs=X)
    assert int(model.calls) == 0
    np.testing.assert_array_equal(model.calls.numpy(), 0)

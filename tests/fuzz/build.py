# SPDX-License-Identifier: Apache-2.0
"""A spec becomes a torch module: steps pick among earlier values, layers are made by running."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.fuzz.spec import Spec, Step


class Value(NamedTuple):
    """A tensor that the network computes.

    Attributes
    ----------
    index : int
        Its place in the network.
    tensor : Tensor
        Its value on the inputs of the spec.
    levels : (float, float) or None
        Of a sign: its values below and above the threshold.
    """

    index: int
    tensor: Tensor
    levels: tuple[float, float] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Batch first."""
        return tuple(self.tensor.shape)


class Network(nn.Module):
    """Runs its layers in order and returns all values that nothing else reads."""

    def __init__(self, layers: list[nn.Module], wires: list[list[int]], outputs: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.wires = wires
        self.outputs = outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values = list(inputs)
        for layer, wires in zip(self.layers, self.wires, strict=True):
            values.append(layer(*[values[i] for i in wires]))
        return tuple(values[i] for i in self.outputs)


class Build:
    """State while a spec is made into a network.

    Attributes
    ----------
    least, most : int
        How many layers have to be binary, and how many may be.
    applied : list of Step
        Those that fitted.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.generator = torch.Generator().manual_seed(spec.seed)
        self.inputs = make_inputs(spec, 0)
        self.values = [Value(i, x) for i, x in enumerate(self.inputs)]
        self.layers: list[nn.Module] = []
        self.wires: list[list[int]] = []
        self.least = self.most = 0
        self.applied: list[Step] = []

    def pick(self, x: int, fits: Callable[[Value], bool]) -> Value | None:
        """Return one of the values that fit, 0 the newest."""
        found = [value for value in self.values if fits(value)]
        return found[-1 - x % len(found)] if found else None

    def add(
        self, layer: nn.Module, *sources: Value, levels: tuple[float, float] | None = None
    ) -> Value:
        """Append a layer that reads the sources."""
        layer.eval()
        with torch.no_grad():
            result = layer(*[source.tensor for source in sources])
        self.layers.append(layer)
        self.wires.append([source.index for source in sources])
        value = Value(len(self.values), result, levels)
        self.values.append(value)
        return value

    def expect(self, binary: bool | None) -> None:
        """Note that a layer must be binary, must not be, or may be (None)."""
        self.least += binary is True
        self.most += binary is not False

    def normal(self, *shape: int) -> Tensor:
        """Random parameters in the style of the spec."""
        return numbers(self.spec.params, shape, self.generator)

    def network(self) -> Network:
        """Return the network; every value that no layer reads is an output."""
        read = {index for wires in self.wires for index in wires}
        for value in self.values[: len(self.inputs)]:
            if value.index not in read:
                self.add(Halved(), value)
                read.add(value.index)
        outputs = [v.index for v in self.values if v.index not in read]
        return Network(self.layers, self.wires, outputs).eval()


class Halved(nn.Module):
    """Makes an output of an input that nothing else reads."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5


def numbers(style: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal numbers, or halves of small integers."""
    if style == "normal":
        return torch.randn(shape, generator=generator)
    return torch.randint(-3, 4, shape, generator=generator) / 2


def make_inputs(spec: Spec, attempt: int) -> tuple[Tensor, ...]:
    """Return inputs; each attempt draws others."""
    generator = torch.Generator().manual_seed(spec.seed + 7919 * (attempt + 1))
    return tuple(numbers(spec.data, tuple(shape), generator) for shape in spec.inputs)


def build(spec: Spec) -> tuple[Network, Build]:
    """Build the network of a spec, the same every time."""
    from tests.fuzz.steps import STEPS

    state = Build(spec)
    for step in spec.steps:
        if STEPS[step.op].apply(state, step):
            state.applied.append(step)
    return state.network(), state


Args = dict[str, Any]


def is_map(value: Value) -> bool:
    return value.tensor.dim() in (3, 4)


def any_value(value: Value) -> bool:
    return value.tensor.dim() >= 2

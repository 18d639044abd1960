# SPDX-License-Identifier: Apache-2.0
"""Rows of the coverage table: for each idiom a small network that has it.

A section is one network with a part for each row, so that one import serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.differential import randomize
from tests.fuzz.build import Build
from tests.fuzz.pointwise import POINTWISE
from tests.fuzz.spec import Spec
from tests.idioms.signs import SIGNS
from tests.idioms.structures import CASES, Network
from tests.idioms.weights import WEIGHTS


class Section(NamedTuple):
    """A part of the table.

    Attributes
    ----------
    title : str
    text : str
        What a row's network is.
    rows : callable
        Makes the network of each row; the seed is set before.
    inputs : list of shapes
        Each row reads one of them.
    binary : callable
        From a row to how many layers should be binary.
    """

    title: str
    text: str
    rows: Callable[[], dict[str, nn.Module]]
    shapes: Callable[[str], tuple[int, ...]]
    binary: Callable[[str], int]


class Rows(nn.Module):
    """Runs every row on the input that has its shape."""

    def __init__(self, rows: dict[str, nn.Module], inputs: dict[str, int]) -> None:
        super().__init__()
        self.rows = nn.ModuleDict(rows)
        self.inputs = inputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        results: list[Tensor] = []
        for name, row in self.rows.items():
            result = row(inputs[self.inputs[name]])
            results += result if isinstance(result, tuple) else [result]
        return tuple(results)


class _Layer(nn.Module):
    """sign → 3×3 convolution, each written as given."""

    def __init__(self, sign: str, weight: str) -> None:
        super().__init__()
        self.sign = sign
        self.weight = WEIGHTS[weight](torch.randn(6, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(SIGNS[self.sign].fn(x), self.weight(), padding=1)


class _Between(nn.Module):
    """sign → convolution → what the row says → batch norm → sign → convolution."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        build = Build(Spec([[2, 8, 6, 5]], []))
        self.first, self.second = (nn.Parameter(torch.randn(8, 8, 3, 3)) for _ in range(2))
        self.between = POINTWISE[kind](build, (2, 8, 6, 5))
        self.norm = nn.BatchNorm2d(8)
        randomize(self.norm, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(torch.sign(x), self.first.sign(), padding=1)
        y = torch.sign(self.norm(self.between(y)))
        return F.conv2d(y, self.second.sign(), padding=1)


SECTIONS: dict[str, Section] = {
    "signs": Section(
        "Spellings of sign",
        "One convolution behind each; inputs hold exact zeros. Code: `tests/idioms/signs.py`.",
        lambda: {name: _Layer(name, "Sign") for name in SIGNS},
        lambda _: (2, 8, 6, 5),
        lambda _: 1,
    ),
    "weights": Section(
        "Spellings of binary weights",
        "One convolution by each, computed in `forward`. Code: `tests/idioms/weights.py`.",
        lambda: {name: _Layer("where greater or equal", name) for name in WEIGHTS},
        lambda _: (2, 8, 6, 5),
        lambda _: 1,
    ),
    "scales": Section(
        "Scales and activations between two binary layers",
        "Each between a convolution and batch norm, sign, convolution. Code: "
        "`tests/fuzz/pointwise.py`.",
        lambda: {name: _Between(name) for name in POINTWISE},
        lambda _: (2, 8, 6, 5),
        lambda _: 2,
    ),
    "structures": Section(
        "Structures",
        "Small networks with one to ten layers that should be binary. Code: "
        "`tests/idioms/structures.py`.",
        lambda: {name: Network(made) for name, made in CASES.items()},
        lambda row: CASES[row].shape,
        lambda row: CASES[row].binary,
    ),
}


def make(section: Section, only: list[str] | None = None) -> tuple[Rows, tuple[Any, ...]]:
    """Return the network of a section, or of some of its rows, and its inputs."""
    torch.manual_seed(0)
    rows = {name: row for name, row in section.rows().items() if only is None or name in only}
    shapes = list(dict.fromkeys(section.shapes(name) for name in rows))
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for shape in shapes:
        x = torch.randn(shape, generator=generator)
        inputs.append(torch.where(x.abs() < 0.05, torch.zeros(()), x))
    places = {name: shapes.index(section.shapes(name)) for name in rows}
    return Rows(rows, places).eval(), tuple(inputs)

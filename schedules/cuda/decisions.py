# SPDX-License-Identifier: Apache-2.0
"""What is decided of a kernel for GPUs, as data: its family, and the tile of that family."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log2
from typing import Any

#: A number of a tile, or several: warps along rows and along columns.
Value = int | tuple[int, ...]


@dataclass(frozen=True)
class GpuDecisions:
    """One legal way to compute a kernel.

    Attributes
    ----------
    family : str
        Of `xnortvm.schedules.cuda.dispatch`.
    tile : tuple of (str, int or tuple of int)
        The fields of the family's tile; none where it has no tiles.
    """

    family: str
    tile: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def of(cls, family: str, tile: Any) -> GpuDecisions:
        """Return the decisions for a tile, a `NamedTuple` or None."""
        return cls(family, () if tile is None else tuple(tile._asdict().items()))

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        fields = {name: _plain(value) for name, value in self.tile}
        return {"family": self.family, "tile": fields}

    @classmethod
    def from_json(cls, data: Any) -> GpuDecisions:
        """Return the decisions that `to_json` described.

        Raises
        ------
        ValueError
            When the data are something else.
        """
        try:
            items = [(str(name), _value(value)) for name, value in data["tile"].items()]
            return cls(str(data["family"]), tuple(items))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{data!r} are no decisions of a kernel for GPUs") from error

    @property
    def call_attributes(self) -> dict[str, Any]:
        """What the call of the operator has to carry: nothing, kernels are made as a whole."""
        return {}

    def transferred(self) -> None:
        """Nothing is taken over by kernels without a record: whether that pays was not measured."""
        return

    def beside(self, _rule: Any) -> GpuDecisions:
        """Return what a search of a kernel alike tries first."""
        return self

    @property
    def numbers(self) -> dict[str, float]:
        """What a model of their times sees."""
        found = {f"is {self.family}": 1.0}
        for name, value in self.tile:
            for part, number in _parts(name, value):
                found[part] = log2(number) if number > 0 else -1.0
        return found

    def __str__(self) -> str:
        parts = [f"{name} {_text(value)}" for name, value in self.tile]
        return ", ".join([self.family, *parts])


def _plain(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _value(value: Any) -> Value:
    return tuple(int(each) for each in value) if isinstance(value, list) else int(value)


def _parts(name: str, value: Value) -> Iterator[tuple[str, int]]:
    if isinstance(value, tuple):
        yield from ((f"{name} {i}", each) for i, each in enumerate(value))
    else:
        yield name, int(value)


def _text(value: Value) -> str:
    return "×".join(map(str, value)) if isinstance(value, tuple) else str(int(value))

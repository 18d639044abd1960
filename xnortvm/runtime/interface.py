# SPDX-License-Identifier: Apache-2.0
"""What a compiled model takes and gives: names, shapes and dtypes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes
    ----------
    name : str
        Name in the user's model; ``output0`` … for outputs.
    shape : tuple of int or str
        All dimensions, batch first. A dynamic batch is its name, such as ``"batch"``, or
        ``"4·batch"`` where dimension 0 has four entries for each sample; the code computes one.
    dtype : str
        NumPy's name of the element type, such as ``"float32"``.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    @property
    def has_batch(self) -> bool:
        """Whether dimension 0 is a dynamic batch."""
        return bool(self.shape) and isinstance(self.shape[0], str)

    def of_batch(self, size: int) -> tuple[int, ...]:
        """Return the shape of an input for a batch of so many samples."""
        return tuple(size if isinstance(dim, str) else dim for dim in self.shape)

    def __str__(self) -> str:
        return f"{self.dtype} [{'×'.join(map(str, self.shape)) or 'scalar'}]"


@dataclass(frozen=True)
class Kernel:
    """What the profile and the report know about one function of the library.

    Attributes
    ----------
    layers : tuple of str
        Names of the layers of the user's model that it computes, as far as they are known.
    schedule : str
        Name of the rule or record that scheduled it, empty when unknown.
    """

    layers: tuple[str, ...] = ()
    schedule: str = ""


@dataclass(frozen=True)
class Interface:
    """Inputs, outputs and kernels of a compiled model.

    Attributes
    ----------
    inputs, outputs : tuple of TensorSpec
        In the order of the arguments and of the results.
    kernels : dict of str to Kernel
        Every kernel of the library by its symbol.
    batch : (int, int or None) or None
        Smallest and largest batch of a model whose batch is dynamic; None is no limit.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    kernels: dict[str, Kernel]
    batch: tuple[int, int | None] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts and lists that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Interface:
        """Read what `to_json` gave."""

        def specs(rows: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
            return tuple(
                TensorSpec(
                    str(r["name"]),
                    tuple(n if isinstance(n, str) else int(n) for n in r["shape"]),
                    str(r["dtype"]),
                )
                for r in rows
            )

        kernels = {
            str(name): Kernel(tuple(row["layers"]), str(row["schedule"]))
            for name, row in data["kernels"].items()
        }
        low, high = data.get("batch") or (0, None)
        batch = (int(low), None if high is None else int(high)) if data.get("batch") else None
        return cls(specs(data["inputs"]), specs(data["outputs"]), kernels, batch)

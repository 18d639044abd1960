# SPDX-License-Identifier: Apache-2.0
"""What rebuilds a model: a network's name and options, and what was done to it since."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Spec:
    """How a model was made, in a form that JSON can hold.

    Parameters
    ----------
    network : str
        A key of `models.MODELS`; for a binarized foreign network the name of its class.
    options : dict
        Keywords of the network's class.
    real : bool
        Whether `real_twin` took the signs and scale factors away.
    binarized : dict, optional
        What `binarize` did: ``layers``, the output map of each replaced layer by its name, and
        ``options``.
    """

    network: str
    options: dict[str, Any] = field(default_factory=dict)
    real: bool = False
    binarized: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain dictionaries, lists, strings and numbers."""
        return {
            "network": self.network,
            "options": self.options,
            "real": self.real,
            "binarized": self.binarized,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Spec:
        """Return the spec that `to_json` described."""
        options = {key: _tuples(value) for key, value in data["options"].items()}
        return cls(data["network"], options, bool(data["real"]), data["binarized"])

    def with_options(self, options: dict[str, Any]) -> Spec:
        """Return a copy in which `options` override those of the network."""
        return replace(self, options={**self.options, **options})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def spec_of(model: nn.Module) -> Spec | None:
    """Return how a model was made, if this package made it."""
    spec = getattr(model, "spec", None)
    return spec if isinstance(spec, Spec) else None


def note_spec(model: nn.Module, spec: Spec) -> None:
    """Keep with a model how it was made."""
    model.spec = spec

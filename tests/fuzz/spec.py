# SPDX-License-Identifier: Apache-2.0
"""A random network as plain data: small, comparable, saved as JSON, built the same every time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Step:
    """One step of a network.

    Attributes
    ----------
    op : str
        A key of `tests.fuzz.steps.STEPS`.
    x : int
        Which of the values that fit it reads, 0 the newest; modulo their number.
    args : dict
        What the step needs to know, as strings and numbers.
    """

    op: str
    x: int = 0
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """A network, its inputs and the way into the compiler.

    Attributes
    ----------
    inputs : list of shapes
        Batch first.
    steps : list of Step
        A step that does not fit any value is left out.
    way : str
        A key of `tests.fuzz.ways.WAYS`.
    opset : int
        For ONNX.
    params, data : str
        "normal" numbers, or "few" halves among which zeros and ties are common.
    seed : int
        Of all numbers.
    verify : bool
        Compare every binary layer's integers, too.
    """

    inputs: list[list[int]]
    steps: list[Step]
    way: str = "torch"
    opset: int = 17
    params: str = "normal"
    data: str = "normal"
    seed: int = 0
    verify: bool = False

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Return the spec that `to_json` wrote."""
        data = json.loads(text)
        return cls(**data | {"steps": [Step(**step) for step in data["steps"]]})

    @classmethod
    def load(cls, path: Path) -> Spec:
        """Read a file."""
        return cls.from_json(path.read_text())

    def digest(self) -> str:
        """Return a short name that differs between different networks."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

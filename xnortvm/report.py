# SPDX-License-Identifier: Apache-2.0
"""The report: one row per convolution and dense layer, what it became and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

FLOAT_BYTES = 4


@dataclass
class LayerRow:
    """One convolution or dense layer of the user's model.

    Attributes
    ----------
    name : str
        Its name in the user's model.
    op : str
        "conv2d", "dense", ...
    binary : bool
    shape : str
        Output map, kernel and channels in words.
    macs : int
        Multiply-accumulates of one call (binary ones for a binary layer).
    bytes_before, bytes_after : int
        Weights in float32, and as compiled (packed bits, tables and scales).
    bits_in, bits_out : str
        What it reads and writes: "1" (packed bits), "32" (float), "32+1" (both); "16" for
        floats that are stored as fp16.
    kernel, schedule : str
        The compiled kernel that computes it, and the schedule rule that made it.
    decided_by : str
        Who decided its tile: "rule", or "tuned" by a tuning record.
    reason, hint : str
        For a float layer: why, and what to change in the model.
    note : str
        What a user should know about a binary layer (accepted zeros, ...).
    source : str
        ``file.py:line`` of the user's code, where the model remembers it.
    """

    name: str
    op: str
    binary: bool
    shape: str = ""
    macs: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    bits_in: str = "32"
    bits_out: str = "32"
    kernel: str = ""
    schedule: str = ""
    decided_by: str = ""
    reason: str = ""
    hint: str = ""
    note: str = ""
    source: str = ""


@dataclass
class Verification:
    """What `xnortvm.verify` compared; there is none without differences within the bounds.

    Attributes
    ----------
    inputs, against : str
        What the models were run on, and who ran the source model.
    kernels, binary_layers : int
        Kernels compared one by one; binary layers whose integers are exact.
    signs, signs_near_zero, zeros : int
        Packed signs of the run; those whose argument lies within rounding of 0 and that both sides
        take differently; exact zeros of torch.sign that were taken as +1.
    largest_difference : float
        Of the outputs, relative to the largest value of each.
    seconds : float
    """

    inputs: str
    against: str
    kernels: int
    binary_layers: int
    signs: int
    signs_near_zero: int
    zeros: int
    largest_difference: float
    seconds: float = 0.0


@dataclass
class Report:
    """Every decision of one compilation.

    Attributes
    ----------
    target, isa : str
        What was compiled for, and the instruction set the kernels use.
    num_threads : int
    layers : list of LayerRow
        In order of execution.
    notes : list of str
        What holds for the whole model.
    bytes_activations : int
        Memory that a run needs for activations, packed and float.
    bytes_library : int
        Size of the library, weights included; 0 before it is built.
    verification : Verification, optional
        What was compared with the source model; None when nothing was.
    unsupported : list of dict
        Operators for which the model cannot be compiled as it is: "operator", "layer", "source",
        "reason"; only `explain` gives a report that has some.
    seconds : dict of str to float
        How long each stage of the compiler took.
    """

    target: str = ""
    isa: str = ""
    num_threads: int = 1
    layers: list[LayerRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bytes_activations: int = 0
    bytes_library: int = 0
    verification: Verification | None = None
    unsupported: list[dict[str, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def num_binary_ops(self) -> int:
        """How many layers are binary."""
        return sum(row.binary for row in self.layers)

    @property
    def num_float_ops(self) -> int:
        """How many layers are float."""
        return len(self.layers) - self.num_binary_ops

    @property
    def rejects(self) -> list[LayerRow]:
        """The layers that stayed float, each with its reason."""
        return [row for row in self.layers if not row.binary]

    @property
    def binary_macs(self) -> int:
        """Binary multiply-accumulates of one call."""
        return sum(row.macs for row in self.layers if row.binary)

    @property
    def float_macs(self) -> int:
        """Float multiply-accumulates of one call."""
        return sum(row.macs for row in self.layers if not row.binary)

    @property
    def bytes_before(self) -> int:
        """Bytes of all layers' weights in float32."""
        return sum(row.bytes_before for row in self.layers)

    @property
    def bytes_after(self) -> int:
        """Bytes of all layers' weights as compiled."""
        return sum(row.bytes_after for row in self.layers)

    def row(self, name: str) -> LayerRow | None:
        """Return the row of a layer."""
        return next((row for row in self.layers if row.name == name), None)

    def summary(self) -> str:
        """Return the one line that is logged by default."""
        if self.unsupported:
            count = len(self.unsupported)
            listed = f"{count} operators" if count > 1 else "1 operator"
            return f"the model cannot be compiled: {listed} without code; {self._layers()}"
        return self._layers()

    def _layers(self) -> str:
        if not self.num_binary_ops:
            return f"no binary layers in {len(self.layers)} convolutions and dense layers"
        return (
            f"{self.num_binary_ops} of {len(self.layers)} layers binary, "
            f"{_count(self.binary_macs)} binary and {_count(self.float_macs)} float MACs, "
            f"weights {_bytes(self.bytes_before)} → {_bytes(self.bytes_after)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain dictionaries, lists, strings and numbers."""
        return {
            "target": self.target,
            "isa": self.isa,
            "num_threads": self.num_threads,
            "totals": {
                "binary_layers": self.num_binary_ops,
                "float_layers": self.num_float_ops,
                "binary_macs": self.binary_macs,
                "float_macs": self.float_macs,
                "bytes_before": self.bytes_before,
                "bytes_after": self.bytes_after,
                "bytes_activations": self.bytes_activations,
                "bytes_library": self.bytes_library,
            },
            "layers": [asdict(row) for row in self.layers],
            "notes": list(self.notes),
            "unsupported": [dict(row) for row in self.unsupported],
            "verification": None if self.verification is None else asdict(self.verification),
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        """Return the report that `to_json` described."""
        checked = data.get("verification")
        return cls(
            target=data["target"],
            isa=data["isa"],
            num_threads=data["num_threads"],
            layers=[LayerRow(**row) for row in data["layers"]],
            notes=list(data["notes"]),
            bytes_activations=data["totals"]["bytes_activations"],
            bytes_library=data["totals"]["bytes_library"],
            verification=Verification(**checked) if checked else None,
            unsupported=[dict(row) for row in data.get("unsupported", [])],
            seconds=dict(data.get("seconds", {})),
        )

    def __str__(self) -> str:
        """Return the report as a table of text."""
        threads = f"{self.num_threads} thread" + ("s" if self.num_threads != 1 else "")
        lines = [f"target {self.target} · {self.isa} · {threads}", ""]
        lines += _table(self.layers)
        for row in self.rejects:
            place = f" ({row.source})" if row.source else ""
            lines.append(f"  {row.name}{place}: float because {row.reason}" + _hint(row.hint))
        lines += [f"  {row.name}: {row.note}" for row in self.layers if row.note]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  cannot be compiled: {_unsupported(row)}" for row in self.unsupported]
        lines += ["", self.summary()]
        if self.bytes_library:
            lines[-1] += f", library {_bytes(self.bytes_library)}"
        if self.bytes_activations:
            lines[-1] += f", activations {_bytes(self.bytes_activations)}"
        return "\n".join(lines)


def _unsupported(row: dict[str, str]) -> str:
    place = f"in layer {row['layer']!r}" if row["layer"] else "in the model's own forward"
    line = f" ({row['source']})" if row["source"] else ""
    return f"{row['operator']} {place}{line}: {row['reason']}"


_COLUMNS = ("layer", "op", "", "shape", "MACs", "bytes", "in→out bits", "kernel", "schedule")


def _table(layers: list[LayerRow]) -> list[str]:
    rows = [_COLUMNS] + [
        (
            row.name,
            row.op,
            "binary" if row.binary else "float",
            row.shape,
            _count(row.macs),
            f"{_bytes(row.bytes_before)} → {_bytes(row.bytes_after)}",
            f"{row.bits_in} → {row.bits_out}",
            row.kernel,
            f"{row.schedule} {row.decided_by}".strip(),
        )
        for row in layers
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    text = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)) for r in rows]
    return [line.rstrip() for line in text] + [""]


def _hint(hint: str) -> str:
    return f" — {hint}" if hint else ""


def _count(number: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _bytes(number: int) -> str:
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} B"

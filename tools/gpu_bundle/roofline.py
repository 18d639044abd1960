# SPDX-License-Identifier: Apache-2.0
"""The least time of ResNet-18's binary convolutions on a GPU, by what limits it.

    python -m xnortvm.tools.gpu_bundle.roofline --chip h200
    python -m xnortvm.tools.gpu_bundle.roofline --result gpu-result/result.json

A chip's rates are estimates from its data sheet; a result of the bundle replaces them by what was
measured there. A kernel needs at least the longest of: its binary products on the tensor cores, the
instructions of its epilogue, and its bytes. POPC is what the same products take on CUDA cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from xnortvm.tools.gpu_bundle.layers import BATCHES, LAYERS, Layer

#: Instructions of a lane for each output: scale, shift, compare, pack, its share of the store.
EPILOGUE = 6
#: Bytes that a convolution reads and writes for each output of a trunk in fp16.
_RESIDUAL = 4
_LANES = 128


@dataclass(frozen=True)
class Chip:
    """What a chip can do, in one second.

    Attributes
    ----------
    name : str
    sms : int
    hertz : float
    mma : float
        Binary operations on tensor cores (a product and a sum are two); 0 where there are none.
    popc : float
        Binary operations on CUDA cores.
    int8, fp16 : float
        Dense operations on tensor cores.
    memory : float
        Bytes.
    launch : float
        Seconds between kernels of a CUDA graph.
    reduction : int
        Bits that one instruction of the tensor cores sums over: sums are padded to it.
    source : str
        Where the numbers are from.
    """

    name: str
    sms: int
    hertz: float
    mma: float
    popc: float
    int8: float
    fp16: float
    memory: float
    launch: float
    reduction: int
    source: str

    @property
    def issue(self) -> float:
        """Instructions of lanes in a second."""
        return _LANES * self.sms * self.hertz


def _chip(
    name: str, sms: int, hertz: float, fp16: int, int8: int, memory: float, reduction: int = 256
) -> Chip:
    """Return a row from operations a clock and SM: fp16 summed in fp32, int8; binary is 8 × int8.

    `reduction` 0 stands for tensor cores without a binary mode.
    """
    clock = sms * hertz
    binary = 8 * int8 * clock if reduction else 0.0
    popc = 16 * 32 * 2 * clock
    return Chip(
        *(name, sms, hertz, binary, popc, int8 * clock, fp16 * clock, memory),
        *(1.5e-6, reduction or 256, "data sheet"),
    )


#: Nominal numbers. Blackwell's tensor cores have no binary mode.
CHIPS: dict[str, Chip] = {
    "t4": _chip("T4", 40, 1.59e9, 1024, 2048, 0.32e12, 128),
    "a100": _chip("A100 SXM", 108, 1.41e9, 2048, 4096, 1.56e12),
    "rtx3090": _chip("GeForce RTX 3090", 82, 1.70e9, 512, 2048, 0.94e12),
    "rtx4090": _chip("GeForce RTX 4090", 128, 2.52e9, 512, 2048, 1.01e12),
    "l4": _chip("L4", 58, 2.04e9, 1024, 2048, 0.30e12),
    "h100": _chip("H100 SXM", 132, 1.83e9, 4096, 8192, 3.35e12),
    "h200": _chip("H200 SXM", 132, 1.83e9, 4096, 8192, 4.8e12),
    "b200": _chip("B200", 148, 1.85e9, 8192, 16384, 8.0e12, 0),
}


def measured(result: Mapping[str, Any]) -> Chip:
    """Return a chip as the bundle measured it; what failed there is absent, as 0.

    Raises
    ------
    ValueError
        When the result has no chip.
    """
    about = result.get("chip")
    if not about:
        raise ValueError("the result was made without a GPU, so there is nothing to replace")
    rows: dict[str, Any] = {}
    for name, part in result["parts"].items():
        if name.startswith("ceilings:"):
            rows |= part.get("rows", {})
    rates = {n: r["rate"] for n, r in rows.items() if r.get("checked")}
    clocks = [row["hertz"] for row in rows.values() if row.get("hertz")]

    def best(*names: str) -> float:
        return max([rate for n, rate in rates.items() if n.startswith(names)], default=0.0)

    chip = Chip(
        about["name"],
        about["sms"],
        max(clocks, default=about["clock_khz"] * 1e3),
        best("wgmma_b1", "mma_b1"),
        best("xnor_"),
        best("wgmma_s8", "mma_s8"),
        best("wgmma_f16", "mma_f16"),
        best("copy_memory", "read_memory"),
        rates.get("launch_in_graph", 0.0),
        256,
        f"measured {result['date'][:10]}",
    )
    return chip if about["major"] != 7 else replace(chip, reduction=128)


@dataclass(frozen=True)
class Floors:
    """Seconds that each limit alone asks for; None where the chip lacks the unit."""

    mma: float | None
    popc: float | None
    epilogue: float
    packed: float
    residual: float
    int8: float | None
    fp16: float | None

    @property
    def least(self) -> float:
        """Packed bits in and out."""
        compute = [t for t in (self.mma, self.popc) if t is not None]
        return max(min(compute, default=0.0), self.epilogue, self.packed)

    @property
    def least_with_residual(self) -> float:
        """With a trunk in fp16 read and written beside the bits."""
        return max(self.least, self.residual)

    def __add__(self, other: Floors) -> Floors:
        def both(a: float | None, b: float | None) -> float | None:
            return None if a is None or b is None else a + b

        names = ("mma", "popc", "int8", "fp16")
        sums = {name: both(getattr(self, name), getattr(other, name)) for name in names}
        return Floors(
            **sums,
            epilogue=self.epilogue + other.epilogue,
            packed=self.packed + other.packed,
            residual=self.residual + other.residual,
        )

    def times(self, count: int) -> Floors:
        """Return the floors of several layers like it."""
        total = self
        for _ in range(count - 1):
            total = total + self
        return total


def floors(layer: Layer, batch: int, chip: Chip) -> Floors:
    """Return what each limit asks for of one layer."""
    outputs = batch * layer.out**2 * layer.outputs
    inner = layer.channels * layer.kernel**2
    padded = ceil(inner / chip.reduction) * chip.reduction
    operations = 2.0 * outputs * inner
    packed = batch * layer.size**2 * layer.channels / 8 + outputs / 8 + layer.outputs * inner / 8

    def at(work: float, rate: float) -> float | None:
        return work / rate if rate else None

    return Floors(
        mma=at(2.0 * outputs * padded, chip.mma),
        popc=at(operations, chip.popc),
        epilogue=EPILOGUE * outputs / chip.issue,
        packed=packed / chip.memory if chip.memory else 0.0,
        residual=(packed + _RESIDUAL * outputs) / chip.memory if chip.memory else 0.0,
        int8=at(operations, chip.int8),
        fp16=at(operations, chip.fp16),
    )


_COLUMNS = ("mma", "popc", "epilogue", "packed", "residual", "int8", "fp16")
_HEADS = ("binary MMA", "POPC", "epilogue", "bytes", "+ fp16 trunk", "int8", "fp16")


def render(chip: Chip, batches: Sequence[int] = BATCHES) -> str:
    """Return the floors in microseconds as Markdown: a table for each batch."""
    lines = [f"{chip.name}, {chip.source}; microseconds that each limit alone asks for", ""]
    for batch in batches:
        lines += [f"batch {batch}", ""]
        lines += ["| layer | n | " + " | ".join(_HEADS) + " | least | least with trunk |"]
        lines += ["|" + "---|" * (len(_HEADS) + 4)]
        rows = [(layer.name, layer.copies, floors(layer, batch, chip)) for layer in LAYERS]
        total = _sum([row.times(count) for _, count, row in rows])
        for name, count, row in [*rows, ("all", sum(n for _, n, _ in rows), total)]:
            values = [getattr(row, key) for key in _COLUMNS]
            if name == "all":  # each layer has a limit of its own
                ends = [
                    sum(n * getattr(r, key) for _, n, r in rows)
                    for key in ("least", "least_with_residual")
                ]
            else:
                ends = [row.least, row.least_with_residual]
            lines.append(f"| {name} | {count} | " + " | ".join(map(_us, [*values, *ends])) + " |")
        lines += ["", f"{sum(n for _, n, _ in rows)} launches: {_us(16 * chip.launch)}", ""]
    return "\n".join(lines)


def _sum(rows: Sequence[Floors]) -> Floors:
    total = rows[0]
    for row in rows[1:]:
        total = total + row
    return total


def _us(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e6:.1f}" if seconds < 1e-4 else f"{seconds * 1e6:,.0f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m xnortvm.tools.gpu_bundle.roofline")
    parser.add_argument("--chip", choices=CHIPS, default="h200")
    parser.add_argument("--result", type=Path, help="result.json of the bundle")
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES))
    args = parser.parse_args(argv)
    chip = CHIPS[args.chip]
    if args.result:
        try:
            chip = measured(json.loads(args.result.read_text()))
        except (OSError, ValueError, KeyError) as error:
            parser.error(f"{args.result} cannot be used: {error}")
    print(render(chip, args.batch))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

# SPDX-License-Identifier: Apache-2.0
"""``xnortvm bench [MODEL] --layers``: layers in TBMAC/s and GB/s, beside what the machine can do.

Without MODEL common binary layers are run alone, on data that stay in the caches as far as they
fit; every result is compared with the reference, exactly, before it is timed. With MODEL its
layers are timed in their places in the network.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xnortvm._tvm import ir, runtime, tvm
from xnortvm.errors import VerificationError
from xnortvm.runtime.timing import pinned
from xnortvm.target import Target
from xnortvm.tools import bench_model, limits, model_arg
from xnortvm.tools.layer_modules import (
    EPILOGUES,
    KernelCall,
    Layer,
    binary_layer,
    kernel_calls,
    kernels_of,
)
from xnortvm.tools.machine import Machine, limits_of_this_machine
from xnortvm.tools.outcome import Outcome, table

LAYERS = (
    Layer(3, 64, 56, 64, 1),
    Layer(3, 64, 56, 128, 2),
    Layer(3, 128, 28, 128, 1),
    Layer(3, 256, 14, 256, 1),
    Layer(3, 512, 7, 512, 1),
    Layer(1, 64, 56, 128, 2),
    Layer(1, 4096, 0, 4096, 1),
)

#: The 3×3 layers of ResNet-18 with what else can follow them, for `bench --model-cost`.
WITH_EPILOGUES = tuple(
    Layer(3, channels, size, channels, 1, epilogue)
    for epilogue in EPILOGUES
    if epilogue
    for channels, size in ((64, 56), (128, 28), (256, 14), (512, 7))
)

#: Float layers for `bench --model-cost`: first layers, shortcuts, a whole 3×3 layer, the last one.
FLOAT_LAYERS = (
    Layer(7, 3, 224, 64, 2),
    Layer(3, 3, 32, 64, 1),
    Layer(1, 64, 28, 128, 1),
    Layer(1, 128, 14, 256, 1),
    Layer(1, 256, 7, 512, 1),
    Layer(3, 64, 28, 64, 1),
    Layer(1, 512, 0, 1000, 1),
)


class Point(NamedTuple):
    """One kernel on the roofline.

    Attributes
    ----------
    name : str
        The layer, or the kernel where it is no layer.
    kind : str
        "binary", "float", or "other" for a kernel that multiplies nothing.
    seconds : float
        Of one run.
    macs : int
        Multiply-accumulates.
    bytes : int
        Of all arguments of the kernel, each read or written at least once.
    calls : int
        How many equal kernels were added up.
    """

    name: str
    kind: str
    seconds: float
    macs: int
    bytes: int
    calls: int = 1

    @property
    def intensity(self) -> float:
        """Multiply-accumulates for each byte."""
        return self.macs / self.bytes

    def limit(self, machine: Machine, isa: str, threads: int = 1) -> tuple[float, str]:
        """Return the least seconds that it takes on this machine, and what bounds it.

        Either all multiply-accumulates at the highest rate, or every byte read from the smallest
        level that holds the data of one call.
        """
        level = machine.level_of(self.bytes / self.calls)
        moving = self.bytes / machine.read[level]
        if not self.macs:
            return moving / threads, level
        rate = machine.binary(isa) if self.kind == "binary" else machine.fp32(isa)
        computing = self.macs / rate
        return max(computing, moving) / threads, "compute" if computing >= moving else level


def run(args: argparse.Namespace) -> Outcome:
    """Measure the layers of a model or common layers, and draw them where asked."""
    if args.plot:
        from xnortvm.tools import roofline

        roofline.check(args.plot)  # before anything is measured
    if args.model is None:
        target = model_arg.host_target(args)
        with pinned(1):
            machine = limits_of_this_machine(refresh=args.refresh)
            points = list(common(target))
        isa, title = target.isa, "common binary layers"
    else:
        points, isa = _of_model(args)
        with pinned(1):
            machine = limits_of_this_machine(refresh=args.refresh)
        title = args.model
    if isa not in machine.macs:
        machine = _with_isa(machine, isa, args)
    rows = [row(point, machine, isa, args.num_threads if args.model else 1) for point in points]
    text = (
        table(list(rows[0]), [list(each.values()) for each in rows]) + "\n\n" + _note(machine, isa)
    )
    if args.plot:
        roofline.draw(points, machine, isa, Path(args.plot), title=title)
        text += f"\nRoofline written to {args.plot}"
    return Outcome(text, rows)


def row(point: Point, machine: Machine, isa: str, threads: int = 1) -> dict[str, Any]:
    """Return a row of the table."""
    limit, bound = point.limit(machine, isa, threads)
    speed = point.macs / point.seconds if point.seconds else 0.0
    return {
        "layer": point.name + (f" ({point.calls} calls)" if point.calls > 1 else ""),
        "kind": point.kind,
        "microseconds": round(point.seconds * 1e6, 1),
        "TBMAC/s": round(speed * 1e-12, 3) if point.kind == "binary" else None,
        "GMAC/s": round(speed * 1e-9, 1) if point.kind == "float" else None,
        "GB/s": round(point.bytes / point.seconds * 1e-9, 1) if point.seconds else None,
        "share": round(limit / point.seconds, 3) if point.seconds else None,
        "bound": bound,
        "isa": isa,
    }


def _note(machine: Machine, isa: str) -> str:
    read = ", ".join(f"{level} {rate / 1e9:.0f}" for level, rate in machine.read.items())
    return (
        "microseconds of one call; TBMAC/s: 10^12 binary, GMAC/s: 10^9 float "
        "multiply-accumulates a second.\nshare: of the speed that one core of this machine allows, "
        f"bound by compute ({machine.binary(isa) * 1e-12:.3f} TBMAC/s, "
        f"{machine.fp32(isa) * 1e-9:.1f} GMAC/s)\nor by reading the data from where they fit "
        f"({read} GB/s); limits of {machine.cpu}, {machine.date}."
    )


def common(target: Target, layers: Sequence[Layer] = LAYERS) -> Iterator[Point]:
    """Time single binary layers, each on one thread of this machine.

    Raises
    ------
    VerificationError
        When a kernel computes something else than its reference.
    """
    for layer in layers:
        built = binary_layer(layer)
        mod = kernels_of(built.mod, target)
        spent: list[tuple[float, int]] = []

        def timed(call: KernelCall, spent: list[tuple[float, int]] = spent) -> np.ndarray[Any, Any]:
            library = tvm.compile(
                ir.IRModule({"k": call.func.with_attr("global_symbol", "k")}), target.tvm
            )
            output = runtime.tensor(np.zeros(*call.output))
            arguments = [*map(runtime.tensor, call.arguments), output]
            library["k"](*arguments)
            result: np.ndarray[Any, Any] = output.numpy()
            moved = result.nbytes + sum(array.nbytes for array in call.arguments)
            spent.append((limits.fastest(library, "k", arguments), moved))
            return result

        result = kernel_calls(mod, built.inputs, timed)
        assert built.expected is not None, layer  # `LAYERS` only scale
        if not np.array_equal(result, built.expected):
            raise VerificationError(f"the kernel of {layer} differs from its reference")
        seconds, moved = (sum(each) for each in zip(*spent, strict=True))
        yield Point(str(layer), "binary", seconds, built.macs, int(moved))


def _of_model(args: argparse.Namespace) -> tuple[list[Point], str]:
    compiled, source = bench_model.compiled_model(args)
    inputs = bench_model.example_inputs(compiled, source)
    with pinned(args.num_threads):
        profile = compiled.profile(inputs, repeats=args.repeats or 50)
        sizes: dict[str, int] = {}
        for call in compiled.trace(inputs):
            moved = sum(array.nbytes for array in call.args)
            sizes[call.kernel] = sizes.get(call.kernel, 0) + moved
    layers = {layer.name: layer for layer in compiled.report.layers}
    points = []
    for each in profile.rows:
        found = [layers[name] for name in each.layers if name in layers]
        kind = "other" if not found else "binary" if found[0].binary else "float"
        points.append(
            Point(
                label(each.layers, each.kernel),
                kind,
                each.median_us / 1e6,
                sum(layer.macs for layer in found),
                sizes[each.kernel],
                each.calls,
            )
        )
    return points, str(compiled.report.isa)


def label(layers: Sequence[str], kernel: str) -> str:
    """Name a kernel by the layers that it computes, if it computes any."""
    if not layers:
        return kernel
    return layers[0] + (f" +{len(layers) - 1}" if len(layers) > 1 else "")


def _with_isa(machine: Machine, isa: str, args: argparse.Namespace) -> Machine:
    """Add the limits of an instruction set that is not one of the usual ones of this machine."""
    from dataclasses import replace

    from xnortvm.schedules.isa import ISAS

    target = model_arg.host_target(args)
    names = limits.steps_of(ISAS[isa], target)
    measured = {name: limits.measure_step(name, ISAS[isa], target) for name in names}
    return replace(machine, macs={**machine.macs, isa: measured})

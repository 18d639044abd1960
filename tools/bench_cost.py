# SPDX-License-Identifier: Apache-2.0
"""``xnortvm bench [MODEL] --model-cost CORES``: what kernels would cost on ARM cores.

The code is run in an emulator and everything it computes is compared; what it executes is counted,
and LLVM's scheduling models say how many cycles that takes. docs/arm.md says what such a figure
is worth.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from xnortvm import pipeline
from xnortvm.emulation import needs
from xnortvm.emulation.cores import Core, core_of
from xnortvm.emulation.cost import MISS_CYCLES, STEP, Cost, bound, float_bound, waiting
from xnortvm.errors import MissingDependencyError, ModelError, TargetError
from xnortvm.patterns import ZeroPolicy
from xnortvm.report import Report
from xnortvm.target import Target, resolve
from xnortvm.tools import bench_layers, model_arg
from xnortvm.tools.layer_modules import binary_layer, float_layer
from xnortvm.tools.model_cost import Kernel, Subject, measure, total_of
from xnortvm.tools.outcome import Outcome, table

_log = logging.getLogger("xnortvm.tools.bench")


class Published(NamedTuple):
    """Somebody else's measurement on a real board."""

    ms: float
    engine: str
    network: str
    board: str
    source: str


#: By core, for networks with the layers of ResNet-18.
PUBLISHED = {
    "cortex-a72": Published(
        85.4,
        "Larq Compute Engine",
        "Bi-Real-18",
        "Raspberry Pi 4B, 1 thread",
        "larq/docs, docs/plots/zoo_hero.vg.json, 2020-10",
    )
}


class Part(NamedTuple):
    """A row of the table: a kernel with all its calls, or a single layer.

    Attributes
    ----------
    name : str
    kind : str
        "binary", "float", or "other" for a kernel that multiplies nothing.
    calls : int
    macs : int
        Multiply-accumulates of all calls.
    cost : Cost
        Of all calls.
    """

    name: str
    kind: str
    calls: int
    macs: int
    cost: Cost


def run(args: argparse.Namespace) -> Outcome:
    """Model the cost of a network, or of common layers.

    Raises
    ------
    MissingDependencyError
        When a program of others is missing; says what to install.
    TargetError
        When a core is unknown, or the target is no aarch64 CPU.
    """
    for option, given in _timing(args).items():
        if given:
            raise ModelError(
                f"{option} is about timing on this machine and --model-cost models another one; "
                "leave one of them out"
            )
    cores = [core_of(name) for name in dict.fromkeys(args.model_cost.split(","))]
    if args.clock_ghz <= 0:
        raise ModelError(f"--clock-ghz={args.clock_ghz} is not a clock; give GHz, such as 1.5")
    groups = _targets(args.target, cores)
    lacking = needs.missing_for_costs()
    if lacking:
        raise MissingDependencyError(f"the cost cannot be modelled: {lacking}")
    parts = _common(groups) if args.model is None else _of_model(args, groups)
    codes = {core.mcpu: target.name for target, group in groups for core in group}
    found = {core.mcpu: _of_core(parts[core.mcpu], core, args) for core in cores}
    data = {
        "model": args.model,
        "clock_ghz": args.clock_ghz,
        "llvm": needs.find_models().version,
        "cores": {name: {"code": codes[name], **each} for name, each in found.items()},
    }
    text = [_text(name, each) for name, each in data["cores"].items()]
    return Outcome("\n\n".join([*text, _NOTE]), data)


def _timing(args: argparse.Namespace) -> dict[str, bool]:
    """Return the options that mean nothing here, and whether they were given."""
    return {
        "--machine": args.machine,
        "--against": bool(args.against),
        "--profile": args.profile,
        "--plot": bool(args.plot),
        "--repeats": args.repeats is not None,
        "--num-threads": args.num_threads != 1,
    }


def _targets(name: str, cores: Sequence[Core]) -> list[tuple[Target, list[Core]]]:
    """Return what to compile for, and the cores to model the code on.

    Without a target each core gets code of its own.
    """
    if name == "llvm":
        return [(resolve(f"llvm -mcpu={core.mcpu}"), [core]) for core in cores]
    target = resolve(name)
    if target.isa != "neon":
        raise TargetError(
            f"the cost of code for {target.name} cannot be modelled, only that of aarch64 code; "
            "leave --target out to compile for the cores, or name one, such as rpi4"
        )
    return [(target, list(cores))]


def _common(groups: Sequence[tuple[Target, list[Core]]]) -> dict[str, list[Part]]:
    binary = (*bench_layers.LAYERS, *bench_layers.WITH_EPILOGUES)
    built = {str(layer): ("binary", binary_layer(layer)) for layer in binary}
    built |= {
        f"float {layer}": ("float", float_layer(layer)) for layer in bench_layers.FLOAT_LAYERS
    }
    subjects = {name: Subject(each.mod, each.inputs) for name, (_, each) in built.items()}
    parts: dict[str, list[Part]] = {}
    for target, cores in groups:
        measured = measure(subjects, target, cores)
        for core in cores:
            parts[core.mcpu] = [
                Part(name, kind, 1, layer.macs, total_of(measured[name], core))
                for name, (kind, layer) in built.items()
            ]
    return parts


def _of_model(
    args: argparse.Namespace, groups: Sequence[tuple[Target, list[Core]]]
) -> dict[str, list[Part]]:
    report, subject = lowered(args, [target for target, _ in groups])
    parts = {}
    for target, cores in groups:
        _log.info("running code for %s in the emulator", target.name)
        records = model_arg.records_of(args)
        kernels = measure({args.model: subject}, target, cores, records=records)[args.model]
        for core in cores:
            parts[core.mcpu] = [_part(kernel, report, core) for kernel in kernels]
    return parts


def lowered(args: argparse.Namespace, targets: Sequence[Target]) -> tuple[Report, Subject]:
    """Return the model of the command line after the phases that no target changes."""
    from pathlib import Path

    import numpy as np

    from xnortvm.frontend import import_model
    from xnortvm.frontend.batch import one_sample
    from xnortvm.stem import check_stem, choose_stem

    if model_arg.is_compiled(args.model):
        raise ModelError(
            f"{args.model} is compiled; the cost is modelled of code made for the core, "
            "name the .pt2 or .onnx file that it was compiled from"
        )
    for target in targets:
        check_stem(args.stem, target)
    source = model_arg.find_source(args)
    if not isinstance(source.model, Path):
        from xnortvm.models import freeze_

        freeze_(source.model)
    imported = one_sample(import_model(source.model, source.example_inputs))
    report = Report()
    graph = pipeline.run(imported.mod, pipeline.graph_phases(report, ZeroPolicy()))
    random = np.random.default_rng(0)
    if source.example_inputs is not None:
        inputs = [np.asarray(value) for value in source.example_inputs]
    else:
        inputs = [
            np.asarray(random.standard_normal([int(dim) for dim in param.ty.shape.values])).astype(
                str(param.ty.dtype)
            )
            for param in graph["main"].params
        ]
    return report, Subject(choose_stem(graph, args.stem, inputs, report), inputs)


def _part(kernel: Kernel, report: Report, core: Core) -> Part:
    rows = {row.name: row for row in report.layers}
    found = [rows[name] for name in kernel.layers if name in rows]
    kind = "other" if not found else "binary" if found[0].binary else "float"
    name = bench_layers.label([row.name for row in found], kernel.name)
    macs = sum(row.macs for row in found)
    return Part(name, kind, kernel.calls, macs, kernel.costs[core.mcpu])


def _of_core(parts: Sequence[Part], core: Core, args: argparse.Namespace) -> dict[str, Any]:
    total = sum((part.cost for part in parts), Cost())
    data: dict[str, Any] = {
        "board": core.board,
        "bound": bound(core.mcpu),
        "float_bound": float_bound(core.mcpu),
        "rows": [_row(part, total) for part in parts],
    }
    if args.model is None:
        return data
    shares = {
        kind: round(sum(p.cost.cycles for p in parts if p.kind == kind) / total.cycles, 4)
        for kind in ("binary", "float", "other")
    }
    published = PUBLISHED.get(core.mcpu) if args.model.startswith("resnet18") else None
    return data | {
        "total": _figures(total),
        "shares": shares,
        "ms": round(total.cycles / args.clock_ghz / 1e6, 2),
        "ms_stalled": round(waiting(total) / args.clock_ghz / 1e6, 2),
        "clock_ghz": args.clock_ghz,
        "published": published._asdict() if published else None,
    }


def _figures(cost: Cost) -> dict[str, int]:
    return {
        "instructions": cost.instructions,
        "cycles": round(cost.cycles),
        "l1_misses": cost.l1_misses,
        "l2_misses": cost.l2_misses,
        "spills": cost.spills,
    }


def _row(part: Part, total: Cost) -> dict[str, Any]:
    steps = part.macs / STEP
    return {
        "layer": part.name + (f" ({part.calls} calls)" if part.calls > 1 else ""),
        "kind": part.kind,
        **_figures(part.cost),
        "cycles_per_step": round(part.cost.cycles / steps, 3) if part.kind == "binary" else None,
        "cycles_per_mac": round(part.cost.cycles / part.macs, 3) if part.kind == "float" else None,
        "share": round(part.cost.cycles / total.cycles, 4),
    }


#: Columns of the table and their headings.
_COLUMNS = {
    "layer": "layer",
    "instructions": "instructions",
    "cycles": "cycles",
    "cycles_per_step": "cycles/128 MACs",
    "cycles_per_mac": "cycles/float MAC",
    "l1_misses": "L1 misses",
    "l2_misses": "L2 misses",
    "spills": "spills",
    "share": "share",
}

_NOTE = (
    "All outputs were compared with NumPy. cycles: by llvm-mca, every access in the first cache, "
    "every branch predicted.\nmisses: of caches without prefetching, on a second call. spills: "
    "instructions that put a vector register on the stack."
)


def _text(name: str, core: dict[str, Any]) -> str:
    empty = {
        column
        for column in ("cycles_per_step", "cycles_per_mac")
        if all(row[column] is None for row in core["rows"])
    }
    columns = {key: head for key, head in _COLUMNS.items() if key not in empty}
    rows = [[row[key] for key in columns] for row in core["rows"]]
    code = f"{name} ({core['board']}), code for {core['code']}"
    least = (
        f"at least {core['bound']} cycles for 128 binary MACs, {core['float_bound']} for a float"
    )
    lines = [
        f"{code}; {least} MAC",
        table(list(columns.values()), rows),
    ]
    return "\n".join(lines + _summary(core))


def _summary(core: dict[str, Any]) -> list[str]:
    if "total" not in core:
        return []
    total, l2, memory = core["total"], *MISS_CYCLES
    shares = ", ".join(f"{kind} {100 * share:.1f} %" for kind, share in core["shares"].items())
    executed = f"all kernels: {total['instructions']:,} instructions, {total['cycles']:,} cycles"
    missed = f"{total['l1_misses']:,} L1 misses, {total['l2_misses']:,} L2 misses"
    times = f"{core['ms']} ms if no access waits, {core['ms_stalled']} ms if each waits alone"
    stalls = f"({l2} cycles for the second cache, {memory} for memory)"
    lines = [
        f"{executed} ({shares}), {missed}",
        f"at {core['clock_ghz']} GHz {times} {stalls}; one thread, kernels only",
    ]
    published = core["published"]
    if published:
        lines.append(
            f"measured on a board: {published['ms']} ms, {published['engine']}, "
            f"{published['network']}, {published['board']} ({published['source']})"
        )
    return lines

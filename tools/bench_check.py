# SPDX-License-Identifier: Apache-2.0
"""Compare what the hot kernels cost with what is recorded.

Times on shared machines are noise; what LLVM emits for a fixed CPU is not. Every kernel is compiled
for every instruction set, whatever this machine is, and its loops are counted
(`xnortvm.tools.object_code`). Those for ARM are also run in an emulator, where one is installed,
and what they execute is modelled (`xnortvm.tools.cost_record`).

    python -m xnortvm.tools.bench_check            compare, exit with 1 where something got worse
    python -m xnortvm.tools.bench_check --record   write the counts of now
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xnortvm import ops
from xnortvm._tvm import IRModule, installed_version, ir, relax, tirx, tvm
from xnortvm.emulation import needs
from xnortvm.emulation.cost import Cost
from xnortvm.graph.dataflow import const
from xnortvm.ops.stem_conv2d import stem_conv2d
from xnortvm.stem import METHODS
from xnortvm.target import Target, resolve
from xnortvm.tools import cost_record
from xnortvm.tools.bench_layers import FLOAT_LAYERS, LAYERS, WITH_EPILOGUES
from xnortvm.tools.layer_modules import Layer, binary_layer, float_layer, function, kernels_of
from xnortvm.tools.object_code import Counts, count
from xnortvm.tools.outcome import table

RECORD = Path(__file__).parent / "kernel_counts.json"

#: A CPU for each instruction set that has hand-made rules.
CPUS = {
    "avx512vpopcntdq": "llvm -mcpu=znver4",
    "avx512bw": "llvm -mcpu=skylake-avx512",
    "avx2": "llvm -mcpu=haswell",
    "sse4": "llvm -mcpu=nehalem",
    "neon": "llvm -mcpu=cortex-a72",
}


class Margin(NamedTuple):
    """How much more a figure may be before it counts as worse."""

    relative: float
    absolute: float


#: Working loops are what the time goes into; around them LLVM may shuffle a little.
MARGINS = {"cost": Margin(0.02, 0.5), "spills": Margin(0.0, 2.0), "around": Margin(0.10, 20.0)}

#: The same for modelled costs; the absolute part is for kernels of no size. Instructions have no
#: noise; which lines of a cache meet depends on addresses, and so on the kernels beside one.
COST_MARGINS = {
    "instructions": Margin(0.005, 20.0),
    "cycles": Margin(0.02, 20.0),
    "l1_misses": Margin(0.25, 20.0),
    "spills": Margin(0.0, 0.0),
}


def _float_image(size: int, channels: int) -> np.ndarray[Any, Any]:
    return np.zeros((1, size, size, channels), np.float32)


def _bitpack() -> IRModule:
    return function([_float_image(56, 64)], lambda emit, x: emit(ops.bitpack(x)))


def _stem() -> IRModule:
    """7×7 stride 2, batch norm, ReLU, as in ResNet-18."""
    weight = np.random.default_rng(0).random((64, 7, 7, 3), dtype=np.float32)
    scale, shift = np.linspace(0.5, 1.5, 64, dtype=np.float32), np.ones(64, np.float32)

    def body(emit: Callable[[Any], Any], x: Any) -> Any:
        y = emit(
            relax.op.nn.conv2d(
                x,
                const(weight),
                strides=(2, 2),
                padding=(3, 3, 3, 3),
                data_layout="NHWC",
                kernel_layout="OHWI",
            )
        )
        y = emit(ops.affine(y, const(scale), const(shift)))
        return emit(relax.op.nn.relu(y))

    return function([_float_image(224, 3)], body)


def _stem_by(method: str, **attributes: Any) -> IRModule:
    """The same without what follows, by another method, the image as PyTorch has it."""
    weight = np.random.default_rng(0).random((64, 7, 7, 3), dtype=np.float32)
    image = np.zeros((1, 3, 224, 224), np.float32)
    geometry = {"strides": [2, 2], "padding": [3] * 4, "dilation": [1, 1], "groups": 1}

    def body(emit: Callable[[Any], Any], x: Any) -> Any:
        call = stem_conv2d(
            x, const(weight), method=method, layout="NCHW", layer="stem", **geometry, **attributes
        )
        return emit(relax.op.nn.relu(emit(call)))

    return function([image], body)


def _pool() -> IRModule:
    """The max pool behind the stem."""

    def body(emit: Callable[[Any], Any], x: Any) -> Any:
        return emit(
            relax.op.nn.max_pool2d(
                x, pool_size=(3, 3), strides=(2, 2), padding=(1, 1, 1, 1), layout="NHWC"
            )
        )

    return function([_float_image(112, 64)], body)


def _binary(layer: Layer) -> Callable[[], IRModule]:
    return lambda: binary_layer(layer).mod


def _float(layer: Layer) -> Callable[[], IRModule]:
    return lambda: float_layer(layer).mod


#: Name → kind of work (`object_code.WORK`) and the module.
KERNELS: dict[str, tuple[str, Callable[[], IRModule]]] = {
    **{str(layer): ("binary", _binary(layer)) for layer in LAYERS},
    "bitpack 56×56×64": ("pack", _bitpack),
    "stem 7×7 3→64 224×224 s2": ("float", _stem),
    "stem by Winograd": ("float", lambda: _stem_by("winograd", tile=[3, 4])),
    "stem in bf16": ("float", lambda: _stem_by("bf16")),
    "stem in int8": ("float", lambda: _stem_by("int8", scale=0.04, zero=128)),
    "max pool 3×3 112×112×64 s2": ("pool", _pool),
}

#: Kernels whose cost on ARM cores is of no interest, or that these cores have not.
UNMODELLED = {"stem by Winograd", "stem in bf16", "stem in int8"}

#: Those that are only modelled: the layers of ResNet-18 with everything that can follow them, and
#: float layers.
MODELLED_ONLY = {
    **{str(layer): _binary(layer) for layer in WITH_EPILOGUES},
    **{f"float {layer}": _float(layer) for layer in FLOAT_LAYERS},
}

#: Features without which a kernel is of no interest.
NEEDS = {"stem in bf16": METHODS["bf16"].needs, "stem in int8": METHODS["int8"].needs}


def measure(
    kernels: Mapping[str, tuple[str, Callable[[], IRModule]]] = KERNELS,
    cpus: Mapping[str, str] = CPUS,
) -> dict[str, Counts]:
    """Return the counts of every kernel on every instruction set, ``"avx2 · 3×3 …"``."""
    found = {}
    modules = {name: (kind, make()) for name, (kind, make) in kernels.items()}
    for isa, cpu in cpus.items():
        target = resolve(cpu)
        for name, (kind, mod) in modules.items():
            if not NEEDS.get(name, frozenset()) <= target.features:
                continue
            text = "\n".join(_assembly(kernels_of(mod, target), target))
            found[f"{isa} · {name}"] = count(text, kind)
    return found


def _assembly(mod: IRModule, target: Target) -> Iterator[str]:
    for gvar, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc):
            named = func.with_attr("global_symbol", str(gvar.name_hint))
            library = tvm.compile(ir.IRModule({str(gvar.name_hint): named}), target.tvm).mod
            for part in (library, *library.imports):
                yield str(part.inspect_source("asm")) if part.kind == "llvm" else ""


class Difference(NamedTuple):
    """A figure that changed."""

    kernel: str
    figure: str
    recorded: float
    now: float
    worse: bool


def compare(
    recorded: Mapping[str, Any],
    now: Mapping[str, Any],
    margins: Mapping[str, Margin] = MARGINS,
) -> list[Difference]:
    """Return what changed by more than its margin, in either direction."""
    found = []
    for kernel in now:
        before = recorded.get(kernel)
        if before is None:
            continue
        for figure, margin in margins.items():
            old, new = float(getattr(before, figure)), float(getattr(now[kernel], figure))
            allowed = max(margin.relative * old, margin.absolute)
            if abs(new - old) > allowed:
                found.append(Difference(kernel, figure, old, new, new > old))
    return found


def read(path: Path | None = None) -> dict[str, Counts]:
    """Return the recorded counts."""
    data = json.loads((path or RECORD).read_text())
    return {kernel: Counts(**figures) for kernel, figures in data["kernels"].items()}


def write(counts: Mapping[str, Counts], path: Path | None = None) -> None:
    """Record counts, with the compiler that they belong to."""
    data = {
        "tvm": installed_version("apache-tvm"),
        "kernels": {kernel: asdict(figures) for kernel, figures in counts.items()},
    }
    text = json.dumps(data, indent=1, ensure_ascii=False)
    (path or RECORD).write_text(text.replace("\n   ", " ").replace("\n  }", " }") + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare or record; the exit status is 1 when a kernel got worse."""
    parser = argparse.ArgumentParser(prog="bench_check", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write the counts of now")
    parser.add_argument("--all", action="store_true", help="print every kernel")
    args = parser.parse_args(argv)
    statuses = [_counts(args), _costs(args)]
    return max(statuses)


def _counts(args: argparse.Namespace) -> int:
    now = measure()
    before = read() if RECORD.exists() else {}
    if args.all or not before:
        head = ["kernel", "instructions / 1024", "spills", "around", "size"]
        rows = [[k, c.cost, c.spills, c.around, c.size] for k, c in now.items()]
        print(table(head, rows) + "\n")
    status = _report("kernels", before, now, compare(before, now))
    if args.record:
        write(now)
        print(f"recorded {len(now)} kernels in {RECORD.name}")
    return 0 if args.record else status


def _costs(args: argparse.Namespace) -> int:
    lacking = needs.missing_for_costs()
    if lacking:
        print(f"modelled costs were not compared: {lacking}")
        return 0
    modelled = {name: make for name, (_, make) in KERNELS.items() if name not in UNMODELLED}
    now = cost_record.costs_of(modelled | MODELLED_ONLY)
    before: dict[str, Cost] = {}
    margins = dict(COST_MARGINS)
    if cost_record.RECORD.exists():
        before, llvm = cost_record.read()
        here = needs.find_models().version
        if llvm.partition(".")[0] != here.partition(".")[0]:
            print(f"modelled cycles were not compared: they are of LLVM {llvm}, this is {here}")
            margins = {k: v for k, v in margins.items() if k not in cost_record.BY_LLVM}
    if args.all or not before:
        head = ["kernel", "instructions", "cycles", "L1 misses", "spills"]
        rows = [[k, c.instructions, c.cycles, c.l1_misses, c.spills] for k, c in now.items()]
        print(table(head, rows) + "\n")
    status = _report("modelled kernels", before, now, compare(before, now, margins))
    if args.record:
        cost_record.write(now)
        print(f"recorded {len(now)} modelled kernels in {cost_record.RECORD.name}")
    return 0 if args.record else status


def _report(
    what: str, before: Mapping[str, Any], now: Mapping[str, Any], changed: Sequence[Difference]
) -> int:
    """Print what changed; return 1 when something got worse or is not recorded."""
    print(_verdict(what, before, now, changed))
    return int(any(each.worse for each in changed) or any(kernel not in before for kernel in now))


def _verdict(
    what: str, before: Mapping[str, Any], now: Mapping[str, Any], changed: Sequence[Difference]
) -> str:
    lines = []
    if changed:
        rows = [
            (each.kernel, _FIGURES[each.figure], each.recorded, each.now, _word(each))
            for each in changed
        ]
        lines += [table(["kernel", "figure", "recorded", "now", ""], rows), ""]
    missing = [kernel for kernel in now if kernel not in before]
    if missing:
        lines.append(f"{len(missing)} {what} are not recorded; run make bench-record")
    worse = sum(each.worse for each in changed)
    lines.append(
        f"{len(now)} {what}: {worse} figures got worse, {len(changed) - worse} better"
        + ("; look at the code, or run make bench-record if it is meant" if worse else "")
    )
    return "\n".join(lines)


_FIGURES = {
    "cost": "instructions for 1024 MACs",
    "spills": "stack accesses in working loops",
    "around": "instructions of other loops",
    "instructions": "executed instructions",
    "cycles": "modelled cycles",
    "l1_misses": "modelled misses of the first cache",
}


def _word(difference: Difference) -> str:
    if not difference.recorded:
        return "worse" if difference.worse else "better"
    change = difference.now / difference.recorded - 1
    return f"{'worse' if difference.worse else 'better'}, {change:+.1%}"


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The recorded cost of kernels on ARM cores, by the model of `bench --model-cost`.

The second record of `make bench-check`: where instruction counts say what LLVM emitted, these say
what a call executes. Nothing in them depends on this machine; the cycles depend on LLVM's release.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from xnortvm._tvm import IRModule, installed_version
from xnortvm.emulation import needs
from xnortvm.emulation.cores import core_of
from xnortvm.emulation.cost import Cost
from xnortvm.graph.dataflow import dtype_of, shape_of
from xnortvm.target import resolve
from xnortvm.tools.model_cost import Subject, measure, total_of

RECORD = Path(__file__).parent / "model_costs.json"

CORES = ("cortex-a72", "cortex-a53", "neoverse-n1")

#: Figures that other releases of LLVM model differently.
BY_LLVM = ("cycles",)


def costs_of(
    kernels: Mapping[str, Callable[[], IRModule]], cores: tuple[str, ...] = CORES
) -> dict[str, Cost]:
    """Return the cost of kernels on every core, ``"cortex-a72 · 3×3 …"``, each with its own code.

    Raises
    ------
    VerificationError
        When a kernel computes something wrong.
    """
    subjects = {name: _subject(make()) for name, make in kernels.items()}
    found = {}
    for name in cores:
        core = core_of(name)
        measured = measure(subjects, resolve(f"llvm -mcpu={name}"), [core])
        for kernel, parts in measured.items():
            found[f"{name} · {kernel}"] = _rounded(total_of(parts, core))
    return found


def _rounded(cost: Cost) -> Cost:
    return Cost(**{**asdict(cost), "cycles": round(cost.cycles)})


def _subject(mod: IRModule) -> Subject:
    """Give a module inputs: random bits, or floats around 0."""
    random = np.random.default_rng(0)
    inputs: list[np.ndarray[Any, Any]] = []
    for param in mod["main"].params:
        shape, dtype = shape_of(param), np.dtype(dtype_of(param))
        if dtype.kind == "f":
            inputs.append(random.standard_normal(shape).astype(dtype))
        else:
            limits = np.iinfo(dtype)
            inputs.append(random.integers(limits.min, limits.max, shape, dtype, endpoint=True))
    return Subject(mod, inputs)


def read(path: Path | None = None) -> tuple[dict[str, Cost], str]:
    """Return the recorded costs and the release of LLVM that they belong to."""
    data = json.loads((path or RECORD).read_text())
    return {kernel: Cost(**figures) for kernel, figures in data["kernels"].items()}, data["llvm"]


def write(costs: Mapping[str, Cost], path: Path | None = None) -> None:
    """Record costs, with the versions that they belong to."""
    data = {
        "tvm": installed_version("apache-tvm"),
        "llvm": needs.find_models().version,
        "kernels": {kernel: asdict(cost) for kernel, cost in costs.items()},
    }
    text = json.dumps(data, indent=1, ensure_ascii=False)
    (path or RECORD).write_text(text.replace("\n   ", " ").replace("\n  }", " }") + "\n")

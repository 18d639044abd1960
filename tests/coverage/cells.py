# SPDX-License-Identifier: Apache-2.0
"""What becomes of each row of a section on each way into the compiler."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.coverage.sections import SECTIONS, Rows, Section, make
from tests.fuzz.ways import WAYS as TORCH_WAYS
from tests.relax_reference import evaluate
from xnortvm import pipeline
from xnortvm.errors import XnortvmError
from xnortvm.frontend import import_model
from xnortvm.patterns import ZeroPolicy
from xnortvm.report import LayerRow, Report


def _relax(model: nn.Module, inputs: Any, _: int) -> Any:
    from tvm.relax.frontend.torch import from_exported_program

    return from_exported_program(TORCH_WAYS["decomposed"](model, inputs, 0))


WAYS: dict[str, tuple[str, Callable[[nn.Module, Any, int], Any], int]] = {
    "torch": ("torch.export", TORCH_WAYS["torch"], 0),
    "strict": ("strict", TORCH_WAYS["strict"], 0),
    "decomposed": ("decomposed", TORCH_WAYS["decomposed"], 0),
    "onnx-dynamo": ("ONNX dynamo", TORCH_WAYS["onnx-dynamo"], 20),
    "onnx-legacy": ("ONNX TorchScript", TORCH_WAYS["onnx-legacy"], 17),
    "relax": ("Relax", _relax, 0),
}
"""Way to its column's title, what makes the model, and the opset."""


APART: dict[str, set[str]] = {way: set() for way in WAYS}
APART["onnx-dynamo"] = APART["onnx-legacy"] = {"copysign"}
APART["relax"] = {"copysign", "mask assigned", "twice a bool", "MaskAssigned"}
"""Rows that would stop the import of a whole section: imported by themselves, to save time."""


class ExporterRefusesError(Exception):
    """PyTorch or TVM cannot write the model down."""


def cells(section: Section, way: str, only: list[str] | None = None) -> dict[str, str]:
    """Return for each row what the compiler makes of it.

    Rows are imported together. Where that fails they are halved until the rows that fail are
    alone.

    Returns
    -------
    dict
        "binary", "binary, 2 bits" where zeros are kept, "3 of 4 binary: reason", "float: reason",
        "exporter refuses: reason", "refused: reason" or "WRONG: difference".
    """
    network, inputs = make(section, only)
    names = list(network.rows)
    apart = [name for name in names if name in APART[way]] if len(names) > 1 else []
    if apart:
        found = cells(section, way, [name for name in names if name not in apart])
        return found | {name: cells(section, way, [name])[name] for name in apart}
    try:
        lowered = _lower(network, inputs, way)
    except (ExporterRefusesError, XnortvmError) as error:
        if len(names) > 1:
            half = len(names) // 2
            return {**cells(section, way, names[:half]), **cells(section, way, names[half:])}
        who = "exporter refuses" if isinstance(error, ExporterRefusesError) else "refused"
        return {names[0]: f"{who}: {_sentence(str(error))}"}
    mod, report = lowered
    return _judge(section, network, inputs, mod, report)


def _lower(network: Rows, inputs: Any, way: str) -> tuple[Any, Report]:
    _, make_model, opset = WAYS[way]
    try:
        model = make_model(network, inputs, opset)
    except Exception as error:
        raise ExporterRefusesError(str(error)) from error
    report = Report()
    imported = import_model(model, inputs if way == "torch" else None)
    return pipeline.run(imported.mod, pipeline.graph_phases(report, ZeroPolicy())), report


def _judge(
    section: Section, network: Rows, inputs: Any, mod: Any, report: Report
) -> dict[str, str]:
    found = iter(evaluate(mod, *[x.numpy() for x in inputs]))
    mine = _layers_by_row(section, network, report)
    result = {}
    for name, row in network.rows.items():
        with torch.no_grad():
            expected = row(inputs[network.inputs[name]])
        wanted = expected if isinstance(expected, tuple) else (expected,)
        wrong = [_difference(next(found), y.numpy()) for y in wanted]
        result[name] = next(filter(None, wrong), "") or _verdict(mine[name], section.binary(name))
    return result


def _layers_by_row(section: Section, network: Rows, report: Report) -> dict[str, list[LayerRow]]:
    """Split a report: rows run in order, and each has the same layers on every way."""
    layers = iter(report.layers)
    counts = _counts(section.title)
    found = {name: list(islice(layers, counts[name])) for name in network.rows}
    assert not list(layers), "more layers than torch.export gives"
    return found


@cache
def _counts(title: str) -> dict[str, int]:
    """Layers of each row, from their names in the report of torch.export."""
    (section,) = [each for each in SECTIONS.values() if each.title == title]
    network, inputs = make(section)
    names = [layer.name for layer in _lower(network, inputs, "torch")[1].layers]
    return {row: sum(_belongs(name, row) for name in names) for row in network.rows}


def _belongs(layer: str, row: str) -> bool:
    return (
        layer.startswith(f"rows.{row}.")
        or re.fullmatch(rf"rows\.{re.escape(row)}(#\d+)?", layer) is not None
    )


def _difference(found: Any, expected: Any) -> str:
    if found.shape != expected.shape:
        return f"WRONG: shape {found.shape} instead of {expected.shape}"
    largest = max(float(np.abs(expected).max()), 1e-30)
    off = float(np.abs(found - expected).max())
    return "" if off <= 1e-5 * largest else f"WRONG: off by {off:.2g} of {largest:.2g}"


def _verdict(layers: list[LayerRow], binary: int) -> str:
    found = [layer for layer in layers if layer.binary]
    reasons = [_sentence(layer.reason) for layer in layers if not layer.binary]
    if not layers:
        return "no layer found"
    if len(found) == binary and found:
        bits = ", 2 bits" if any(layer.bits_in == "2" for layer in found) else ""
        return f"binary{bits}"
    if not found:
        return f"float: {reasons[0]}"
    return f"{len(found)} of {binary} binary" + (f": {reasons[0]}" if reasons else "")


def _sentence(text: str) -> str:
    """The first sentence, short and without colours and bars, which would end a cell."""
    lines = re.sub(r"\x1b\[\d+m", "", text).strip().splitlines() or [""]
    line = re.sub(r"\s+", " ", lines[0]).replace("|", "/")
    line = re.split(r"\. (?=[A-Z])", line)[0]
    return line if len(line) <= 160 else line[:157] + "..."

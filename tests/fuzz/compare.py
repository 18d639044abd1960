# SPDX-License-Identifier: Apache-2.0
"""Compile a spec's network and compare it with PyTorch eager.

A sign of a real-valued sum that lies within rounding of 0 may go either way on either side. So a
network is run in float64 first: inputs on which an argument of a sign comes closer to its threshold
than `MARGIN` of that tensor's largest are drawn anew, and counted. Exact zeros, in both precisions,
are no such case: they have to come out right.
"""

from __future__ import annotations

import copy
import re
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import xnortvm
from tests.fuzz.build import Build, Network, build, make_inputs
from tests.fuzz.probe import watched
from tests.fuzz.spec import Spec
from tests.fuzz.ways import WAYS
from xnortvm.report import Report

#: Share of a tensor's largest element that counts as close to 0.
MARGIN = 1e-5

#: Float bound, of the largest element of an output.
BOUND = 1e-5

#: How often inputs are drawn anew.
DRAWS = 10


class MismatchError(AssertionError):
    """The compiled network is not what it must be."""


class Skipped(NamedTuple):
    """A network that tells nothing about the compiler, and why."""

    reason: str


class Passed(NamedTuple):
    """A network that came out right.

    Attributes
    ----------
    spec : Spec
        With the steps that were applied.
    binary : int
        Number of binary layers.
    redrawn : int
        How many inputs were too close to a threshold.
    """

    spec: Spec
    binary: int
    redrawn: int


class Expected(NamedTuple):
    """What eager PyTorch says, in both precisions."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    double: tuple[Tensor, ...]
    redrawn: int


def check(spec: Spec) -> Passed | Skipped:
    """Build, compile and compare one network.

    Raises
    ------
    MismatchError
        When outputs differ, a layer is binary that must not be or the other way round, or the
        check of `compile` fails.
    """
    network, state = build(spec)
    applied = Spec(**{**spec.__dict__, "steps": state.applied})
    if not state.most:
        return Skipped("it has no binary layer")
    expected = _expected(spec, network)
    if isinstance(expected, Skipped):
        return expected
    try:
        model = WAYS[spec.way](network, expected.inputs, spec.opset)
    except Exception as error:  # exporters raise anything
        return Skipped(f"{spec.way} refuses: {str(error).strip().splitlines()[0][:120]}")
    compiled = xnortvm.compile(
        model,
        example_inputs=expected.inputs if spec.way == "torch" else None,
        verify=expected.inputs if spec.verify else False,
    )
    if spec.verify and compiled.report.verification is None:
        raise MismatchError(f"it was not verified: {'; '.join(compiled.report.notes)}")
    _check_report(compiled.report, state)
    found = compiled(*expected.inputs)
    found = found if isinstance(found, (tuple, list)) else [found]
    try:
        _check_outputs(found, expected)
    except MismatchError:
        if spec.data == "few" and _meets_generic_zeros(model, spec, expected):
            return Skipped("numbers cancel to 0 in torch.sign by chance, which counts as +1")
        raise
    return Passed(applied, len(_binary_layers(compiled.report)), expected.redrawn)


def _expected(spec: Spec, network: Network) -> Expected | Skipped:
    double = copy.deepcopy(network).double()
    close = ""
    for attempt in range(DRAWS):
        inputs = make_inputs(spec, attempt)
        with torch.no_grad():
            with watched() as read:
                outputs = network(*inputs)
            with watched() as exact:
                doubled = double(*[x.double() for x in inputs])
        close = _too_close(read, exact)
        if not close:
            if not all(torch.isfinite(y).all() for y in outputs):
                return Skipped("an output is not finite")
            return Expected(inputs, outputs, doubled, attempt)
    return Skipped(f"a sign stays within rounding of its threshold: {close}")


def _too_close(read: list[Tensor], exact: list[Tensor]) -> str:
    for place, (single, double) in enumerate(zip(read, exact, strict=True)):
        near = double.abs() <= MARGIN * double.abs().max()
        bad = near & ~((single == 0) & (double == 0))
        if bad.any():
            return f"{int(bad.sum())} of {bad.numel()} arguments of sign {place}"
    return ""


def _check_report(report: Report, state: Build) -> None:
    found = len(_binary_layers(report))
    if not state.least <= found <= state.most:
        rows = "; ".join(f"{row.name}: {row.reason or 'binary'}" for row in report.layers)
        wanted = f"{state.least}" + (f" to {state.most}" if state.most > state.least else "")
        raise MismatchError(f"{found} layers are binary instead of {wanted}: {rows}")
    silent = [row.name for row in report.rejects if not row.reason]
    if silent:
        raise MismatchError(f"float without a reason: {', '.join(silent)}")


def _meets_generic_zeros(model: Any, spec: Spec, expected: Expected) -> bool:
    """Whether verification, which checks everything on the signs that were taken, counts zeros.

    Zeros that happen on purpose are computed as zeros and not counted; docs/semantics.md, sign(0).
    """
    report = xnortvm.compile(
        model,
        example_inputs=expected.inputs if spec.way == "torch" else None,
        verify=expected.inputs,
    ).report
    return report.verification is not None and report.verification.zeros > 0


def _binary_layers(report: Report) -> set[str]:
    """Names of the layers all of whose parts are binary: a transposed convolution has several."""
    parts = [(re.sub(r"\[[\d,]+\]", "", row.name), row.binary) for row in report.layers]
    return {name for name, _ in parts} - {name for name, binary in parts if not binary}


def _check_outputs(found: list[Tensor], expected: Expected) -> None:
    if len(found) != len(expected.outputs):
        raise MismatchError(f"{len(found)} outputs instead of {len(expected.outputs)}")
    for place, (y, eager, double) in enumerate(
        zip(found, expected.outputs, expected.double, strict=True)
    ):
        if tuple(y.shape) != tuple(eager.shape):
            raise MismatchError(f"output {place}: {tuple(y.shape)} instead of {tuple(eager.shape)}")
        largest = float(eager.abs().max()) if eager.numel() else 0.0
        rounding = float((eager - double).abs().max()) if eager.numel() else 0.0
        bound = max(BOUND * largest, 4 * rounding)
        off = np.abs(np.asarray(y, np.float64) - eager.numpy().astype(np.float64))
        if not (off <= bound).all():
            wrong = ~(off <= bound)
            raise MismatchError(
                f"output {place}: {int(wrong.sum())} of {wrong.size} elements differ, by "
                f"{np.nanmax(off):.3g} of {largest:.3g}, first at {tuple(np.argwhere(wrong)[0])}"
            )

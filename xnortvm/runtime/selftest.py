# SPDX-License-Identifier: Apache-2.0
"""Run a model's folder on its own example inputs: does this machine compute what was expected?

    python3 -m xnortvm.runtime.selftest FOLDER [--repeats N]

prints JSON and nothing else on standard output; it needs TVM's runtime and NumPy only. The exit
status is 0 when the outputs fit, 1 when they do not or the model cannot run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xnortvm.errors import ModelError, XnortvmError
from xnortvm.runtime import bundle
from xnortvm.runtime.folder import Example
from xnortvm.runtime.load import load
from xnortvm.runtime.measure import BenchmarkResult

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Difference:
    """How far an output is from the expected one.

    Attributes
    ----------
    name : str
        Of the output.
    largest : float
        Largest difference, as a part of the largest expected value; NaN where something is NaN.
    fits : bool
        Whether that is rounding.
    """

    name: str
    largest: float
    fits: bool


@dataclass(frozen=True)
class SelfTest:
    """What a run on the example inputs showed.

    Attributes
    ----------
    outputs : list of Difference
        One for each output.
    bound : float
        What `Difference.largest` may be.
    latency : BenchmarkResult
        Times of whole calls.
    machine : str
        What ran it.
    """

    outputs: list[Difference]
    bound: float
    latency: BenchmarkResult
    machine: str

    @property
    def passed(self) -> bool:
        """Whether every output fits."""
        return all(output.fits for output in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"passed": self.passed, **asdict(self)}


def compare(
    names: Sequence[str], got: Any, want: Sequence[Array], bound: float
) -> list[Difference]:
    """Compare outputs with expected ones.

    Parameters
    ----------
    names : sequence of str
        Of the outputs.
    got : ndarray or sequence of ndarray
        What came out.
    want : sequence of ndarray
        What was expected; integers and truth values have to be equal.
    bound : float
        Part of the largest expected value that floats may differ by.
    """
    given = [got] if len(want) == 1 and not isinstance(got, (tuple, list)) else list(got)
    return [
        _difference(name, np.asarray(a), b, bound)
        for name, a, b in zip(names, given, want, strict=True)
    ]


def _difference(name: str, got: Array, want: Array, bound: float) -> Difference:
    if got.shape != want.shape or got.dtype != want.dtype:
        return Difference(name, float("inf"), False)
    if want.dtype.kind != "f":
        return Difference(name, float((got != want).mean()), bool((got == want).all()))
    same = (got == want) | (np.isnan(got) & np.isnan(want))  # infinities, too
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(got.astype(np.float64) - want))
    finite = np.abs(want[np.isfinite(want)])
    scale = float(finite.max()) if finite.size else 0.0
    largest = float(apart.max()) if apart.size else 0.0
    part = largest / scale if scale and largest else largest
    return Difference(name, part, part <= bound)


def run(folder: Path, repeats: int | None = None) -> SelfTest:
    """Load a model's folder, run its example, compare and time.

    Raises
    ------
    ModelError
        When the folder is no model, is damaged, or holds no example.
    TargetError
        When this machine cannot run the code.
    """
    manifest, members = bundle.read(folder)
    example = example_of(manifest, members, folder)
    model = load(folder)
    names = [spec.name for spec in model.outputs]
    outputs = compare(names, model(*example.inputs), example.outputs, example.bound)
    latency = model.benchmark(example.inputs, repeats=repeats)
    return SelfTest(
        outputs, example.bound, latency, f"{platform.machine()} {platform.node()}".strip()
    )


def example_of(
    manifest: Mapping[str, Any], members: Mapping[str, bytes], folder: Path | str
) -> Example:
    """Return the example of a model that `bundle.read` read.

    Raises
    ------
    ModelError
        When it has none.
    """
    data = manifest.get("selftest")
    if data is None:
        raise ModelError(
            f"{folder} holds no example inputs; write a folder that does with "
            "xnortvm compile MODEL -o FOLDER/"
        )

    def arrays(kind: str) -> tuple[Array, ...]:
        return tuple(
            np.frombuffer(members[row["file"]], row["dtype"]).reshape(row["shape"])
            for row in data[kind]
        )

    try:
        return Example(arrays("inputs"), arrays("outputs"), float(data["bound"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder} is damaged: its example cannot be read ({error})") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python3 -m xnortvm.runtime.selftest")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int)
    args = parser.parse_args(argv)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            test = run(args.folder, args.repeats)
        data, status = test.to_json(), int(not test.passed)
    except XnortvmError as error:
        data, status = {"passed": False, "error": str(error)}, 1
    print(json.dumps(data))
    sys.stdout.flush()
    return status


if __name__ == "__main__":
    status = main()
    os._exit(status)  # without TVM's teardown, which takes seconds on small boards

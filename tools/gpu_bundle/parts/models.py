# SPDX-License-Identifier: Apache-2.0
"""The compiled models of the bundle, loaded by TVM's runtime that lies beside them."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .result import SkipPart

_CUDART = "libcudart.so.13"


class Entry(NamedTuple):
    """A row of the manifest.

    Attributes
    ----------
    name : str
    row : dict
        Everything about it.
    file : Path
        The compiled model.
    example : Path
        Inputs and expected outputs; models that are only timed have none.
    """

    name: str
    row: dict[str, Any]
    file: Path
    example: Path


def entries(bundle: Path, kind: str, family: str = "") -> list[Entry]:
    """Return the models that run on this machine.

    Raises
    ------
    SkipPart
        When there are none.
    """
    manifest = json.loads((bundle / "manifest.json").read_text())
    arches = os.environ.get("GPU_BUNDLE_ARCHES", "cpu").split(",")
    rows = [
        row
        for row in manifest["models"]
        if row["kind"] == kind and row["family"] == (family or row["family"])
    ]
    fitting = [
        Entry(row["name"], row, bundle / row["file"], bundle / row["example"])
        for row in rows
        if row["arch"] in arches
    ]
    if not fitting:
        built = ", ".join(dict.fromkeys(row["arch"] for row in rows))
        why = "its manifest says under left_out what could not be compiled"
        raise SkipPart(
            "the bundle holds no such models"
            + (f" for this chip, but for {built}" if built else f"; {why}")
        )
    return fitting


def prepare(bundle: Path) -> None:
    """Make TVM's runtime importable.

    Raises
    ------
    SkipPart
        When NumPy is missing, or this Python is one that the bundle has no part for.
    """
    try:
        importlib.import_module("numpy")
    except ImportError as error:
        raise SkipPart("this Python has no NumPy; run: pip install numpy") from error
    library = bundle / "lib" / _CUDART
    if library.is_file():
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    try:
        importlib.import_module("tvm_ffi")
    except ImportError as error:
        pythons = json.loads((bundle / "manifest.json").read_text())["pythons"]
        raise SkipPart(
            f"TVM's runtime is in the bundle for Python {', '.join(pythons)}, and this Python "
            f"cannot import it ({error}); name another: PYTHON=… bash run.sh"
        ) from error


def example(entry: Entry) -> tuple[list[Any], list[Any]]:
    """Return the inputs and expected outputs of a model."""
    import numpy as np

    with np.load(entry.example) as data:
        names = sorted(data.files)
        return (
            [data[name] for name in names if name.startswith("input")],
            [data[name] for name in names if name.startswith("output")],
        )


def each(found: list[Entry], work: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Do something with each model; what fails says why and does not stop the others."""
    for entry in found:
        about = {key: entry.row[key] for key in ("arch", "target", "family")}
        try:
            yield entry.name, {**about, **work(entry)}
        except Exception as error:
            said = str(error).strip().splitlines() or [""]
            yield entry.name, {**about, "error": f"{type(error).__name__}: {said[-1]}"}

# SPDX-License-Identifier: Apache-2.0
"""Put the bundle together: a folder that a machine with a GPU and Python runs by itself."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import logging
import lzma
import math
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import xnortvm
from xnortvm._tvm_runtime import installed_version
from xnortvm.errors import MissingDependencyError, OutputError, XnortvmError
from xnortvm.runtime import cuda_driver
from xnortvm.runtime.cuda_driver import CUDART
from xnortvm.runtime.module import CompiledModel
from xnortvm.schedules.cuda.dispatch import with_tile, without
from xnortvm.target import Target, resolve
from xnortvm.tools.example_data import choose
from xnortvm.tools.gpu_bundle import tuning
from xnortvm.tools.gpu_bundle.cases import Case
from xnortvm.tools.gpu_bundle.ceilings import ARCHES, fatbin
from xnortvm.tools.gpu_bundle.layers import BATCHES, LAYERS
from xnortvm.tools.gpu_bundle.parts.unpack import ARCHIVE
from xnortvm.tools.gpu_bundle.site import PYTHONS, python_files
from xnortvm.tuning.task import Task

_log = logging.getLogger("xnortvm.tools.gpu_bundle")

MANIFEST = "manifest.json"
LIMIT = 60 << 20
_PACKED = ("site/", "models/")
# Holds a network and the next one.
_WINDOW = 128 << 20
#: Families that take every shape, so that nothing comes after them.
_LAST = frozenset({"direct", "fallback"})
TARGETS = ("cuda -arch=sm_90a",)
_PARTS = Path(__file__).parent / "parts"


@dataclass
class Bundle:
    """What will be written.

    Attributes
    ----------
    files : dict of str to bytes
        By name in the folder.
    models : list of dict
        Rows of the manifest.
    left_out : dict of str to str
        What could not be made, and why.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def build(
    out: Path,
    chosen: Iterable[Case],
    *,
    targets: Sequence[str] = TARGETS,
    batches: Sequence[int] = BATCHES,
    pythons: tuple[str, ...] = PYTHONS,
    ceilings: tuple[str, ...] = ARCHES,
    tasks: Callable[[Target], Iterable[Task]] = lambda _: (),
) -> dict[str, Any]:
    """Write the bundle and return its manifest.

    Parameters
    ----------
    out : Path
        A folder that holds such a bundle, or nothing, is replaced once the new one is complete.
    chosen : iterable of Case
        The models; those of `xnortvm.tools.gpu_bundle.cases.cases`, or some of them.
    targets : sequence of str
        What the models are compiled for.
    batches : sequence of int
        That PyTorch is timed with.
    pythons : tuple of str
        Versions of Python that it shall run on.
    ceilings : tuple of str
        Architectures that the microbenchmarks are compiled for, without "sm_".
    tasks : callable, optional
        From a target to the kernels whose candidates are timed.

    Raises
    ------
    OutputError
        When the folder holds something else or cannot be written, or the bundle gets too large.
    MissingDependencyError
        When TVM's runtime cannot be taken from this machine.
    """
    _check(out)
    bundle = Bundle()
    try:
        bundle.files["ceilings.fatbin"] = fatbin(ceilings)
    except MissingDependencyError as error:
        bundle.left_out["ceilings.fatbin"] = str(error)
    site, found = python_files(pythons)
    bundle.files |= {f"site/{name}": data for name, data in site.items()}
    bundle.files |= {f"parts/{p.name}": p.read_bytes() for p in sorted(_PARTS.glob("*.py"))}
    bundle.files |= {name: (_PARTS / name).read_bytes() for name in ("run.sh", "README.md")}
    _add_cudart(bundle)
    resolved = [resolve(target) for target in targets]
    _add_models(bundle, chosen, resolved)
    for target in resolved:
        files, rows = tuning.build(tasks(target), target, arch_of(target))
        bundle.files |= files
        bundle.models += rows
    manifest = {
        "format": 1,
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "xnortvm": xnortvm.__version__,
            **{name: installed_version(name) for name in ("apache-tvm", "apache-tvm-ffi")},
        },
        "arches": [arch_of(target) for target in resolved],
        "pythons": found,
        "batches": list(batches),
        "layers": [{**layer._asdict(), "name": layer.name} for layer in LAYERS],
        "models": bundle.models,
        "left_out": bundle.left_out,
        "sha256": {n: hashlib.sha256(d).hexdigest() for n, d in sorted(bundle.files.items())},
    }
    files = packed(bundle.files)
    files[MANIFEST] = json.dumps(manifest, indent=1).encode()
    size = sum(map(len, files.values()))
    if size > LIMIT:
        raise OutputError(
            f"the bundle would have {size / 2**20:.0f} MiB and may have {LIMIT >> 20}; build it "
            "with fewer --target, --batch or --kind"
        )
    _write(out, files)
    return manifest


def packed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of the folder: packages and models as one compressed archive.

    Models of one network hold the same weights, which a window over all of them finds; so their own
    compression is undone. `parts/unpack.py` unpacks it there.
    """
    inside = {name: data for name, data in files.items() if name.startswith(_PACKED)}
    text = io.BytesIO()
    with tarfile.open(fileobj=text, mode="w") as archive:
        for name, data in inside.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 4, "dict_size": _WINDOW}]
    rest = {name: data for name, data in files.items() if name not in inside}
    return {**rest, ARCHIVE: lzma.compress(text.getvalue(), filters=filters)}


def arch_of(target: Target) -> str:
    """Return what a chip has to have: "sm_90a", or "cpu"."""
    return target.arch or "cpu"


def _add_models(bundle: Bundle, chosen: Iterable[Case], targets: Sequence[Target]) -> None:
    """Compile every model for every target; what is refused is left out with the reason."""
    for case in chosen:
        module, inputs = case.make()
        example: tuple[bytes, float] | None = None
        for target in targets:
            name = f"{arch_of(target)}/{case.name}"
            _log.info("compiling %s", name)
            try:
                if case.kind != "times":
                    example = example or _example(case, module, inputs)
                _add_case(bundle, case, (module, inputs), target, example)
            except XnortvmError as error:
                bundle.left_out[name] = str(error)
                _log.warning("%s is left out: %s", name, error)


def _add_case(
    bundle: Bundle,
    case: Case,
    source: tuple[Any, Any],
    target: Target,
    example: tuple[bytes, float] | None,
) -> None:
    """Compile a model by each family of kernels that takes it, and the first by other tiles."""
    bound = 0.0
    if example is not None:
        bundle.files[_example_file(case)], bound = example
        bound = bound if case.compared else math.inf
    add = partial(_add_model, bundle, case, source, target, bound)
    used = first = add()
    left_out: set[str] = set()
    while case.kind != "network" and (faster := used - _LAST):
        left_out |= faster
        with without(left_out):
            used = add()
    for family, tile in case.tiles:
        if family in first:
            with with_tile(family, tile):
                add("_" + "x".join(map(str, tile)))


def _add_model(
    bundle: Bundle,
    case: Case,
    source: tuple[Any, Any],
    target: Target,
    bound: float,
    variant: str = "",
) -> set[str]:
    """Compile a model and return the families of its kernels."""
    model = _compile(case, *source, target)
    used = _families(model) if target.kind == "cuda" else set()
    name = f"{arch_of(target)}/{case.name}" + "".join(f"+{each}" for each in sorted(used))
    name += variant
    file = f"models/{name}.xnor"
    bundle.files[file] = _saved(model)
    bundle.models.append(_row(case, name, model, target, file, bound))
    return used


def _families(model: CompiledModel) -> set[str]:
    """Return the families of the kernels that compute binary layers."""
    binary = {layer.name for layer in model.report.layers if layer.binary}
    return {
        kernel.schedule.split(".")[0]
        for kernel in model.kernels.values()
        if binary.intersection(kernel.layers)
    }


def _compile(case: Case, module: Any, inputs: Any, target: Target) -> CompiledModel:
    # Families and tiles that are asked for are not to be those of records.
    records = None if case.kind == "network" else False
    return xnortvm.compile(
        module,
        target=target,
        example_inputs=inputs,
        verify=False,
        records=records,
        **case.options,
    )


def _saved(model: CompiledModel) -> bytes:
    with tempfile.TemporaryDirectory(prefix="xnortvm-gpu-bundle-") as folder:
        path = model.save(Path(folder) / "model.xnor")
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return file.getvalue()


def _example_file(case: Case) -> str:
    """Return the file that all models of a case share."""
    return f"models/{case.name}.npz"


def _example(case: Case, module: Any, inputs: Any) -> tuple[bytes, float]:
    """Return inputs and outputs, of one image for networks, as a file, and what they may differ by.

    The outputs are those of the model compiled for this machine, which `xnortvm.compile` compares
    with PyTorch layer by layer. Where they are integers, they have to be equal.
    """
    one = tuple(value[:1] for value in inputs) if case.kind == "network" else inputs
    here = xnortvm.compile(module, target="llvm", example_inputs=one)

    def candidate(seed: int) -> list[Any]:
        if not seed:
            return [value.numpy() for value in one]
        random = np.random.default_rng(seed)
        values = [np.rint(random.standard_normal(value.shape) * 16) / 16 for value in one]
        return [value.astype(np.float32) for value in values]

    example = choose(here, candidate)
    whole = all(np.array_equal(value, np.rint(value)) for value in example.outputs)
    arrays = {f"input{i:02}": value for i, value in enumerate(example.inputs)}
    arrays |= {f"output{i:02}": value for i, value in enumerate(example.outputs)}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue(), 0.0 if whole else example.bound


def _row(
    case: Case, name: str, model: CompiledModel, target: Target, file: str, bound: float
) -> dict[str, Any]:
    binary = {layer.name for layer in model.report.layers if layer.binary}
    layers = {layer.name for layer in model.report.layers}
    kernels = {
        symbol: {
            "layers": [name for name in kernel.layers if name in layers],
            "schedule": kernel.schedule,
            "binary": bool(binary.intersection(kernel.layers)),
        }
        for symbol, kernel in model.kernels.items()
    }
    return {
        "name": name,
        "kind": case.kind,
        "family": case.family,
        "layer": case.layer,
        "batch": case.batch,
        "macs": case.macs,
        "target": target.name,
        "arch": arch_of(target),
        "file": file,
        "bound": bound,
        "example": _example_file(case),
        "kernels": kernels,
    }


def _add_cudart(bundle: Bundle) -> None:
    """Take CUDA's runtime library along: a machine with a driver alone has none."""
    found = cuda_driver.cudart_files()
    if not found:
        bundle.left_out[CUDART] = "it is not installed here; the other machine has to have it"
        return
    bundle.files[f"lib/{CUDART}"] = found[0].read_bytes()


def _check(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} cannot be written: it is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise OutputError(f"{out} holds other files; name a new or an empty folder")


def _write(out: Path, files: dict[str, bytes]) -> None:
    """Write the files; the folder gets its name when it is complete."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            new = Path(folder) / "new"
            for name, data in files.items():
                path = new / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            if out.exists():
                shutil.rmtree(out)
            os.rename(new, out)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}") from error

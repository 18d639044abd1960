# SPDX-License-Identifier: Apache-2.0
"""Load a saved model, checked against this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

from xnortvm.errors import ModelError
from xnortvm.runtime import bundle
from xnortvm.runtime.host import Machine, check_glibc, check_gpu, check_host
from xnortvm.runtime.interface import Interface
from xnortvm.runtime.library import load_library
from xnortvm.runtime.module import CompiledModel


def load(path: str | os.PathLike[str]) -> CompiledModel:
    """Load a model that `CompiledModel.save` wrote.

    The file holds machine code that runs in this process: load only files that you trust.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    CompiledModel
        With its report.

    Raises
    ------
    ModelError
        When the file is missing, is no compiled model, or is damaged.
    VersionError
        When it was compiled with a TVM whose files this one cannot read.
    TargetError
        When it was compiled for another machine, or for a GPU that this one does not have.

    Examples
    --------
    >>> compiled = xnortvm.load("net.xnor")  # doctest: +SKIP
    """
    from xnortvm.report import Report

    path = Path(path)
    manifest, members = bundle.read(path)
    if manifest.get("kind") == "freestanding":
        raise ModelError(
            f"{path} holds a model for programs in C, without a library that could be loaded here; "
            "save the compiled model with CompiledModel.save"
        )
    try:
        interface = Interface.from_json(manifest["interface"])
        machine = Machine.from_json(manifest["machine"])
        name, threads = str(manifest["target"]), int(manifest["num_threads"])
        copies = bool(manifest["copies_outputs"])
        library = members[bundle.LIBRARY]
        report = Report.from_json(json.loads(members[bundle.REPORT]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is damaged: its manifest lacks {error}") from error
    check_host(machine, f"{path} was compiled for {name}")
    check_gpu(machine, f"{path} was compiled for {name}")
    check_glibc(str(manifest.get("glibc", "")), str(path))
    return CompiledModel(
        interface=interface,
        report=report,
        target_name=name,
        num_threads=threads,
        machine=machine,
        copies_outputs=copies,
        library=lambda: library,
        loadable=lambda: load_library(library, path),
    )

# SPDX-License-Identifier: Apache-2.0
"""The shared library of a model in this process."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnortvm._tvm_runtime import runtime
from xnortvm.errors import CompileError, MissingDependencyError
from xnortvm.runtime import bundle
from xnortvm.runtime.noise import without_noise

if TYPE_CHECKING:
    from xnortvm.runtime.build import Built

log = logging.getLogger("xnortvm")


def runnable(built: Built) -> Any:
    """Return the linked library, so that `save` need not generate machine code a second time.

    ResNet-18 takes LLVM 3.3 s for either form. Where there is no linker, TVM's just-in-time
    compiler makes the code in memory.
    """
    try:
        library = built.library
    except (MissingDependencyError, CompileError) as error:
        log.debug("compiling in memory: %s", error)
        return built.executable
    return load_library(library, "memory")


def load_library(library: bytes, origin: Path | str) -> Any:
    """Load the bytes of a shared library.

    Raises
    ------
    CompileError
        When the dynamic loader refuses it.
    """
    # The dynamic loader wants a file; once mapped, the file is no longer needed.
    with tempfile.TemporaryDirectory(prefix="xnortvm-load-") as folder:
        file = Path(folder) / bundle.LIBRARY
        file.write_bytes(library)
        try:
            with without_noise():
                return runtime.load_module(str(file))
        except Exception as error:
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise CompileError(f"the library in {origin} cannot be loaded: {last}") from error

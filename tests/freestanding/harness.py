# SPDX-License-Identifier: Apache-2.0
"""Folders that `save_freestanding` wrote: linked, called, and looked at."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from xnortvm.freestanding import ALIGNMENT
from xnortvm.runtime.interface import TensorSpec

Array = np.ndarray[Any, Any]

WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")


def run(*command: Any, cwd: Path | None = None) -> str:
    """Run a command; fails with what it said."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def compiler() -> str | None:
    """Return this machine's C compiler."""
    return shutil.which("cc")


class Linked:
    """A model's object file as a shared library of this process.

    Parameters
    ----------
    folder : path
    prefix : str
    inputs, outputs : sequence of TensorSpec
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> None:
        library = folder / f"lib{prefix}.so"
        if not library.exists():  # one that is loaded already is not replaced
            run("cc", "-shared", "-o", library, folder / f"{prefix}.o", "-lm")
        self.inputs, self.outputs = inputs, outputs
        self._library = ctypes.CDLL(str(library))
        self.call = getattr(self._library, f"{prefix}_run")
        size = getattr(self._library, f"{prefix}_workspace_bytes")
        size.restype = ctypes.c_size_t
        self.workspace_bytes = int(size())

    def __call__(self, *values: Array, dirt: int = 0) -> list[Array]:
        """Run the model in memory that holds `dirt`, and see that it writes only what it may."""
        given = [room(spec, dirt) for spec in self.inputs]
        for (_, data), value in zip(given, values, strict=True):
            data[...] = value
        before = [whole.copy() for whole, _ in given]
        made = [room(spec, dirt) for spec in self.outputs]
        workspace = room(TensorSpec("", (self.workspace_bytes,), "uint8"), dirt)
        pointers = [ctypes.c_void_p(data.ctypes.data) for _, data in (*given, *made, workspace)]
        assert self.call(*pointers) == 0
        for (whole, _), old in zip(given, before, strict=True):
            np.testing.assert_array_equal(whole, old)
        for whole, data in (*made, workspace):
            start = data.ctypes.data - whole.ctypes.data
            assert (whole[:start] == dirt).all()
            assert (whole[start + data.nbytes :] == dirt).all()
        return [data for _, data in made]


def room(spec: TensorSpec, dirt: int) -> tuple[Array, Array]:
    """Return bytes, and an aligned array among them that other bytes lie before and behind."""
    shape = tuple(int(dim) for dim in spec.shape)
    dtype = np.dtype(spec.dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    whole = np.full(size + 4 * ALIGNMENT, dirt, np.uint8)
    start = ALIGNMENT + -whole.ctypes.data % ALIGNMENT
    return whole, whole[start : start + size].view(dtype).reshape(shape)


def random_values(inputs: tuple[TensorSpec, ...], seed: int) -> list[Array]:
    """Return inputs that no example has."""
    rng = np.random.default_rng(seed)
    return [
        np.asarray(rng.standard_normal(tuple(map(int, spec.shape)))).astype(spec.dtype)
        for spec in inputs
    ]


def flat(result: Any) -> list[Array]:
    """Return the outputs of a compiled model as a list."""
    return list(result) if isinstance(result, tuple) else [result]

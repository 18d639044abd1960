# SPDX-License-Identifier: Apache-2.0
"""What candidates are called with, as a file: constants, and how to make the inputs.

A candidate's folder names the file, which lies beside it and which others share. Where candidates
run, which may be elsewhere, the inputs are made again: the same for the same shapes.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
#: Shape and type of a tensor.
Spec = tuple[tuple[int, ...], str]

_NAME = "arguments"


def write(
    folder: Path, arguments: Sequence[int | Array], inputs: Sequence[Spec], outputs: Sequence[Spec]
) -> None:
    """Write what the candidate in a folder is called with.

    Parameters
    ----------
    folder : Path
    arguments : sequence of int or ndarray
        The number of an input, or a constant.
    inputs, outputs : sequence of (shape, dtype)
    """
    # Bytes, not arrays: those are read by the NumPy that wrote them only.
    plain = [a if isinstance(a, int) else (str(a.dtype), a.shape, a.tobytes()) for a in arguments]
    data = pickle.dumps((plain, list(inputs), list(outputs)))
    # Many candidates are called with the same: weights differ by the order that they lie in.
    shared = folder.parent / f"{_NAME}-{hashlib.sha256(data).hexdigest()[:16]}.pickle"
    if not shared.exists():
        part = shared.with_suffix(f".{os.getpid()}")
        part.write_bytes(data)
        part.replace(shared)
    (folder / _NAME).write_text(shared.name)


def file_of(folder: Path) -> Path:
    """Return the file of the candidate in a folder."""
    return folder.parent / (folder / _NAME).read_text()


def read(path: Path) -> tuple[list[Array], list[Spec]]:
    """Return what such a file holds: arguments, and shapes and types of the outputs."""
    plain, inputs, outputs = pickle.loads(path.read_bytes())
    arrays = random_arrays(inputs)
    return [arrays[a] if isinstance(a, int) else _array(*a) for a in plain], outputs


def _array(dtype: str, shape: tuple[int, ...], data: bytes) -> Array:
    return np.frombuffer(data, dtype).reshape(shape)


def random_arrays(specs: Sequence[Spec], seed: int = 0) -> list[Array]:
    """Return arrays of given shapes and types, the same for the same seed."""
    rng = np.random.default_rng(seed)
    found: list[Array] = []
    for shape, dtype in specs:
        if dtype.startswith("float"):
            found.append(rng.standard_normal(shape, np.float32).astype(dtype, copy=False))
        else:
            limit = min(np.iinfo(dtype).max, 1 << 16) if dtype != "uint32" else 1 << 32
            found.append(rng.integers(0, limit, shape, dtype))
    return found

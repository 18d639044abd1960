# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 from local files, in either of the forms in which it is distributed.

A folder with ``data_batch_1`` ... ``data_batch_5`` and ``test_batch`` (the Python version), or the
same names with ``.bin`` (the binary version: records of one label byte and 3×32×32 pixels).
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xnortvm.errors import DataError

from .augment import chain, flip, shift
from .data import DataSet, MemorySplit

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = "test_batch"
_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_SUB_FOLDERS = ("", "cifar-10-batches-py", "cifar-10-batches-bin")

Raw = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def cifar10(folder: str | Path) -> DataSet:
    """Read CIFAR-10; training images are moved by up to four pixels and mirrored.

    Parameters
    ----------
    folder : str or Path
        With the files themselves, or with the folder that their archive unpacks to.

    Raises
    ------
    DataError
        When a file is missing or damaged.
    """
    train = [_read(path) for path in _find(Path(folder))]
    test = train.pop()
    images, labels = _tensors(train)
    return DataSet(
        "cifar10",
        MemorySplit(images, labels, _MEAN, _STD, chain(shift(4), flip)),
        MemorySplit(*_tensors([test]), _MEAN, _STD),
        _SHAPE,
        CLASSES,
        _MEAN,
        _STD,
    )


def _find(folder: Path) -> list[Path]:
    """Return the paths of the training files and, last, of the test file."""
    if not folder.is_dir():
        raise DataError(f"the data folder {folder} does not exist; unpack CIFAR-10 there")
    names = (*_TRAIN, _TEST)
    for place in (folder / sub for sub in _SUB_FOLDERS):
        for suffix in ("", ".bin"):
            paths = [place / f"{name}{suffix}" for name in names]
            present = [path for path in paths if path.is_file()]
            if present and len(present) < len(paths):
                missing = ", ".join(path.name for path in paths if path not in present)
                raise DataError(f"the data folder {place} lacks {missing}; unpack CIFAR-10 again")
            if present:
                return paths
    raise DataError(
        f"the data folder {folder} holds no CIFAR-10: there is neither {names[0]} nor "
        f"{names[0]}.bin; name the folder that its archive unpacks to"
    )


def _read(path: Path) -> Raw:
    raw = path.read_bytes()
    try:
        pixels, labels = _records(raw) if path.suffix == ".bin" else _pickled(raw)
    except Exception as error:  # pickles fail with nearly any exception
        reason = str(error) or type(error).__name__
        raise DataError(f"the data file {path} is damaged: {reason}; unpack it again") from error
    if labels.max(initial=0) >= len(CLASSES):
        raise DataError(
            f"the data file {path} is damaged: it has a class {labels.max()} and CIFAR-10 only "
            f"{len(CLASSES)}; unpack it again"
        )
    return pixels, labels


def _records(raw: bytes) -> Raw:
    if not raw or len(raw) % (1 + _PIXELS):
        raise ValueError(f"{len(raw)} bytes are no whole records of {1 + _PIXELS}")
    records = np.frombuffer(raw, np.uint8).reshape(-1, 1 + _PIXELS)
    return records[:, 1:], records[:, 0].astype(np.int64)


class _Unpickler(pickle.Unpickler):
    """Reads arrays and nothing that could run code."""

    _ALLOWED = frozenset(
        {
            ("_codecs", "encode"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """Refuse everything but what arrays are made of."""
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image file needs")
        return super().find_class(module, name)


def _pickled(raw: bytes) -> Raw:
    content = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
    pixels = np.asarray(content[b"data"], np.uint8)
    labels = np.asarray(content[b"labels"], np.int64)
    if pixels.shape != (len(labels), _PIXELS):
        raise ValueError(f"{len(labels)} labels do not fit pixels of shape {pixels.shape}")
    return pixels, labels


def _tensors(files: list[Raw]) -> tuple[Tensor, Tensor]:
    pixels = np.concatenate([pixels for pixels, _ in files]).reshape(-1, *_SHAPE)
    labels = np.concatenate([labels for _, labels in files])
    return torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(labels)

# SPDX-License-Identifier: Apache-2.0
"""scikit-learn's digits: 1797 handwritten digits of 8×8 pixels, which come with the package."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch

from xnortvm.errors import MissingDependencyError

from .augment import shift
from .data import DataSet, MemorySplit

TEST_SHARE = 5
"""One image of so many is a test image."""

_MEAN, _STD = (0.305,), (0.376,)


def digits() -> DataSet:
    """Split the digits into 1437 training and 360 test images, the same for everyone.

    The order is that of NumPy's frozen legacy generator with seed 0. Training images are moved by
    up to one pixel.

    Raises
    ------
    MissingDependencyError
        Without scikit-learn.
    """
    found = _load()
    images = torch.from_numpy(found.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(found.target.astype(np.int64))
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)))
    cut = -(-len(labels) // TEST_SHARE)
    test, train = order[:cut], order[cut:]
    return DataSet(
        "digits",
        MemorySplit(images[train], labels[train], _MEAN, _STD, shift(1), full=16),
        MemorySplit(images[test], labels[test], _MEAN, _STD, full=16),
        (1, 8, 8),
        tuple(str(digit) for digit in range(10)),
        _MEAN,
        _STD,
    )


def _load() -> Any:
    try:
        return importlib.import_module("sklearn.datasets").load_digits()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        raise MissingDependencyError(
            "the digits come with scikit-learn, which is not installed; "
            'run: pip install "xnortvm[train]"'
        ) from error

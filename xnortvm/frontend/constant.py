# SPDX-License-Identifier: Apache-2.0
"""Relax constants from arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from xnortvm._tvm import relax


def constant(value: Any) -> Any:
    """Make a constant of the array's own dtype and rank.

    ``relax.const`` alone would narrow float64 and int64, and ``np.ascontiguousarray`` would give a
    scalar an axis.
    """
    array = np.asarray(value, order="C")
    return relax.const(array, str(array.dtype))

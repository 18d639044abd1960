# SPDX-License-Identifier: Apache-2.0
"""Which input shapes can be compiled: everything static, the batch apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xnortvm._tvm import tirx
from xnortvm.errors import ModelError
from xnortvm.frontend.imported import Imported


def refuse_dynamic(name: str, shape: Sequence[Any]) -> None:
    """Refuse an input whose extent along any axis but the first is not a number.

    Parameters
    ----------
    name : str
        Name of the input in the user's model.
    shape : sequence
        Extents: integers, or anything that prints as the name of a dynamic dimension.

    Raises
    ------
    ModelError
        Naming the input and the axis.
    """
    for axis, extent in enumerate(shape):
        if axis > 0 and not isinstance(extent, int):
            raise ModelError(
                f"input {name!r} has a dynamic dimension {str(extent)!r} at axis {axis}, and only "
                "the batch (axis 0) may be dynamic; export the model with a fixed size there"
            )


def has_dynamic_batch(imported: Imported) -> bool:
    """Tell whether dimension 0 of an input is not a number."""
    return any(
        not isinstance(dim, tirx.IntImm)
        for param in imported.mod["main"].params
        for dim in list(param.ty.shape.values)[:1]
    )

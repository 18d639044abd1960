# SPDX-License-Identifier: Apache-2.0
"""Why a layer stays float."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reject:
    """A refusal, as the report shows it.

    Attributes
    ----------
    reason : str
        One sentence with the numbers in it.
    hint : str
        What to change in the model; empty when the layer is meant to be float.
    """

    reason: str
    hint: str = ""

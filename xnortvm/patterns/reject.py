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

    def __and__(self, other: Reject) -> Reject:
        """Return both reasons and both hints as one refusal."""
        hints = dict.fromkeys(hint for hint in (self.hint, other.hint) if hint)
        return Reject(f"{self.reason}; {other.reason}", "; ".join(hints))

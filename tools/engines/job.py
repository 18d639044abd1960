# SPDX-License-Identifier: Apache-2.0
"""What an engine gets and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Arrays = list[np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Job:
    """What one engine has to run.

    Attributes
    ----------
    folder : Path
        Holds the model in the forms that the parent wrote, see `xnortvm.tools.peer_inputs`.
    inputs : list of ndarray
        Arguments of the model.
    num_threads : int
        Threads that the engine may use.
    """

    folder: Path
    inputs: Arrays
    num_threads: int


@dataclass(frozen=True)
class Engine:
    """A prepared engine.

    Attributes
    ----------
    run : callable
        One call of the model; what is timed. What it returns is only looked at by `outputs`.
    outputs : callable
        From what `run` returned to NumPy arrays; not timed.
    note : str
        What a reader of the times should know.
    """

    run: Callable[[], Any]
    outputs: Callable[[Any], Arrays]
    note: str = ""


class CannotRunError(Exception):
    """The engine is not installed or cannot express this model; the message is one sentence."""


def as_arrays(result: Any) -> Arrays:
    """Return a result, or a tuple or list of results, as arrays."""
    parts = result if isinstance(result, (tuple, list)) else (result,)
    return [np.asarray(part) for part in parts]

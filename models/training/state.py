# SPDX-License-Identifier: Apache-2.0
"""The state of a run on disk: everything that is needed to go on as if nothing had happened."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from xnortvm.errors import TrainingError

from ..files import write_atomically

FILE = "state.pt"
FORMAT = 1


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace the state in a folder, as a whole.

    Raises
    ------
    OutputError
        When that is not possible; the former state is then as it was.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(folder / FILE, buffer.getvalue())


def load_state(folder: Path) -> dict[str, Any]:
    """Read the state in a folder, with all tensors on the CPU.

    Raises
    ------
    TrainingError
        When there is none, or it is damaged or of another format.
    """
    path = folder / FILE
    if not path.is_file():
        raise TrainingError(
            f"there is nothing to resume in {folder}: {path.name} does not exist; "
            "leave --resume away to start anew"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each have their own
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainingError(
            f"the state {path} is damaged ({first}); remove it and start anew"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainingError(
            f"the state {path} was written by another version of xnortvm; resume it with that one"
        )
    return dict(state)


def check_same_run(saved: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with a run by other settings than it was started with.

    Raises
    ------
    TrainingError
        Names the first setting that differs, with both values.
    """
    for name, value in _flat(wanted).items():
        was = _flat(saved).get(name)
        if was != value:
            raise TrainingError(
                f"the run in {folder} was started with {name}={was} and cannot be resumed with "
                f"{value}; resume it with the same settings, or start anew in another folder"
            )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat

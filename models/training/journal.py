# SPDX-License-Identifier: Apache-2.0
"""The files of a run that people read: log.csv, log.json and the learning curve."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .progress import EpochRow, log

CSV, JSON, CURVE = "log.csv", "log.json", "curve.png"
_COLUMNS = tuple(EpochRow.__dataclass_fields__)


def write_log(folder: Path, about: dict[str, Any], rows: Sequence[EpochRow]) -> None:
    """Write what is known of a run so far, as CSV and as JSON.

    Parameters
    ----------
    folder : Path
        Of the run.
    about : dict
        What does not change: data, network, recipe, seed.
    rows : sequence of EpochRow
        All epochs so far.

    Raises
    ------
    OutputError
        When that is not possible.
    """
    lines = [",".join(_COLUMNS)]
    lines += [",".join(f"{getattr(row, name):.6g}" for name in _COLUMNS) for row in rows]
    write_atomically(folder / CSV, "\n".join(lines) + "\n")
    data = {**about, "epochs": [row.to_json() for row in rows]}
    write_atomically(folder / JSON, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def draw_curve(folder: Path, rows: Sequence[EpochRow], title: str) -> Path | None:
    """Draw loss and accuracies over the epochs, if matplotlib is installed.

    Returns
    -------
    Path or None
        Of the picture.
    """
    pyplot = pyplot_without_windows()
    if pyplot is None:
        log.info('no learning curve without matplotlib: pip install "xnortvm[plot]"')
        return None
    epochs = [row.epoch for row in rows]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.plot(epochs, [row.loss for row in rows], color="tab:blue")
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    right.plot(epochs, [100 * row.train_accuracy for row in rows], label="training")
    right.plot(epochs, [100 * row.test_accuracy for row in rows], label="test")
    right.set(xlabel="epoch", ylabel="accuracy (%)")
    right.legend()
    figure.suptitle(title)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    pyplot.close(figure)
    write_atomically(folder / CURVE, picture.getvalue())
    return folder / CURVE


def pyplot_without_windows() -> Any:
    """Return matplotlib.pyplot, drawing to files only, or None where it is not installed."""
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ModuleNotFoundError:
        return None
    matplotlib.use("Agg")
    return importlib.import_module("matplotlib.pyplot")

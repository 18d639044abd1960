# SPDX-License-Identifier: Apache-2.0
"""The table and the plot of an ablation, from its results."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .journal import pyplot_without_windows
from .progress import log

TABLE, PLOT = "ablation.md", "ablation.svg"
BASELINE = "analytic"
_T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Student's t for a two-sided 95 % interval by the number of values."""

_METHOD = (
    "Every variant is trained with the same seeds, from the same latent weights, by the same "
    "recipe; α starts at the analytic scale in all of them. The binary network signs the inputs "
    "and weights of one convolution and one linear layer; `real` is the same network without "
    "signs. Accuracy is that of the last epoch on the test images, mean ± standard deviation over "
    "the seeds; *to analytic* is the mean difference to the analytic scale of the same seed with "
    "its 95 % interval (Student's t)."
)


@dataclass(frozen=True)
class Row:
    """One variant on one data set; accuracies in percent.

    Parameters
    ----------
    variant : str
        Its name.
    seeds : int
        Number of runs.
    mean, deviation : float
        Of the test accuracy; the sample's standard deviation.
    gain, error : float or None
        Mean difference to the analytic scale of the same seed, and half of its 95 % interval.
    cost : dict
        See `Cost`.
    """

    variant: str
    seeds: int
    mean: float
    deviation: float
    gain: float | None
    error: float | None
    cost: dict[str, int]


def rows_of(part: dict[str, Any]) -> list[Row]:
    """Summarise the results on one data set."""
    variants = part["variants"]
    baseline = variants.get(BASELINE, {"accuracy": {}})["accuracy"]
    return [
        _row(name, entry, baseline if name != BASELINE else {})
        for name, entry in variants.items()
        if entry["accuracy"]
    ]


def _row(name: str, entry: dict[str, Any], baseline: dict[str, float]) -> Row:
    values = [100 * value for value in entry["accuracy"].values()]
    pairs = [
        100 * (value - baseline[seed])
        for seed, value in entry["accuracy"].items()
        if seed in baseline
    ]
    gain = statistics.mean(pairs) if pairs else None
    error = None
    if len(pairs) > 1:
        t = _T95.get(len(pairs), 1.96 + 2.5 / (len(pairs) - 1))
        error = t * statistics.stdev(pairs) / math.sqrt(len(pairs))
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return Row(name, len(values), statistics.mean(values), deviation, gain, error, entry["cost"])


def as_json(results: dict[str, Any]) -> dict[str, Any]:
    """Return the rows by data set, as plain values."""
    return {name: [asdict(row) for row in rows_of(part)] for name, part in results.items()}


def as_text(results: dict[str, Any]) -> str:
    """Return the tables for people."""
    return "\n\n".join("\n".join(_section(name, part)) for name, part in results.items())


def write_report(results: dict[str, Any], folder: Path, command: str) -> None:
    """Write ``ablation.md`` and, with matplotlib, ``ablation.svg``.

    Parameters
    ----------
    results : dict
        From `run_ablation`.
    folder : Path
        Where to.
    command : str
        What makes them, for the reader.

    Raises
    ------
    OutputError
        When a file cannot be written.
    """
    drawn = _draw(results, folder)
    lines = ["# Which scale factor? An ablation", "", f"Made by `{command}`.", "", _METHOD, ""]
    if drawn:
        lines += [f"![test accuracy of each variant]({PLOT})", ""]
    for name, part in results.items():
        lines += [*_section(name, part), ""]
    write_atomically(folder / TABLE, "\n".join(lines))


def _section(name: str, part: dict[str, Any]) -> Iterator[str]:
    about = part["about"]
    recipe = about["recipe"]
    yield f"## {name}"
    yield ""
    options = ", ".join(f"{k} {v}" for k, v in about["network"].items() if k != "name")
    yield (
        f"{about['train_images']} training and {about['test_images']} test images of "
        f"{'×'.join(map(str, about['image_shape']))}; network {about['network']['name']}"
        f"{f' ({options})' if options else ''}; {recipe['epochs']} epochs, batches of "
        f"{recipe['batch_size']}, {recipe['optimizer']}, learning rate {recipe['lr']}."
    )
    yield ""
    yield (
        "| variant | seeds | test accuracy (%) | to analytic (%) | parameters | numbers in Γ | "
        "binary MACs | real MACs | bytes at inference |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    rows = rows_of(part)
    for row in rows:
        gain = "" if row.gain is None else f"{row.gain:+.2f} ± {row.error or 0:.2f}"
        figures = ("parameters", "scale_numbers", "binary_macs", "real_macs", "bytes")
        costs = " | ".join(f"{row.cost[figure]:,}" for figure in figures)
        yield (
            f"| {row.variant} | {row.seeds} | {row.mean:.2f} ± {row.deviation:.2f} | {gain} | "
            f"{costs} |"
        )
    yield ""
    yield _verdict(rows)


def _verdict(rows: list[Row]) -> str:
    """Say in words what the intervals allow to be said."""
    learned = [row for row in rows if row.variant.startswith("case") and row.error is not None]
    if not learned:
        return "There are too few runs to compare the learned scales with the analytic one."
    better = [row.variant for row in learned if (row.gain or 0) > (row.error or 0)]
    worse = [row.variant for row in learned if (row.gain or 0) < -(row.error or 0)]
    open_ = [row.variant for row in learned if row.variant not in {*better, *worse}]
    best = max(learned, key=lambda row: row.mean)
    said = [f"{best.variant} has the highest mean of the learned scales."]
    for names, what in (
        (better, "better than the analytic scale beyond the 95 % interval"),
        (worse, "worse than the analytic scale beyond the 95 % interval"),
        (open_, "not told apart from the analytic scale by these seeds"),
    ):
        if names:
            said.append(f"{', '.join(names)}: {what}.")
    return " ".join(said)


def _draw(results: dict[str, Any], folder: Path) -> bool:
    pyplot = pyplot_without_windows()
    if pyplot is None:
        log.info('no plot without matplotlib: pip install "xnortvm[plot]"')
        return False
    with pyplot.rc_context({"svg.hashsalt": "xnortvm", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(
            1, len(results), figsize=(4.5 * len(results), 3.6), layout="constrained", squeeze=False
        )
        for axis, (name, part) in zip(axes[0], results.items(), strict=True):
            rows = rows_of(part)
            for k, row in enumerate(rows):
                values = [100 * v for v in part["variants"][row.variant]["accuracy"].values()]
                axis.plot([k] * len(values), values, "o", color="tab:gray", alpha=0.5, ms=4)
                axis.errorbar(
                    k, row.mean, row.deviation, fmt="_", ms=18, capsize=4, color="tab:blue"
                )
            axis.set_xticks(
                range(len(rows)), [row.variant for row in rows], rotation=35, ha="right"
            )
            axis.set(title=name, ylabel="test accuracy (%)")
            axis.grid(axis="y", alpha=0.3)
        picture = io.BytesIO()
        figure.savefig(picture, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    write_atomically(folder / PLOT, picture.getvalue())
    return True

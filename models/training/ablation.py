# SPDX-License-Identifier: Apache-2.0
"""The paper's question: does a learned Γ help, and which shape of it?

Every variant of one network is trained with the same seeds and the same recipe, from the same
latent weights, and with the same start of Γ (α of the analytic scale). A run that is in the results
file is not repeated, so that an ablation that was interrupted, or is to have more seeds, goes on
where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xnortvm.errors import DataError, TrainingError, near

from ..blocks import BinaryNetwork
from ..files import make_folder, write_atomically
from ..real import real_twin
from ..registry import build
from ..scale_init import init_scales_
from .cost import cost
from .data import DataSet
from .digits import digits
from .loop import Options, train
from .progress import duration, log
from .recipe import Recipe, make_recipe
from .shapes import shapes

VARIANTS: dict[str, str | None] = {
    "real": None,
    "analytic": "analytic",
    "case 1": "channel",
    "case 2": "dense",
    "case 3": "channel×spatial",
    "case 4": "channel×height×width",
    "analytic with K": "analytic-input",
}
"""Scales of the variants by the names in the table; None is the real-valued twin."""

USUAL = tuple(name for name in VARIANTS if name != "analytic with K")
"""What is compared unless asked otherwise; XNOR-Net's own code has no input map K either."""

RESULTS = "ablation.json"


@dataclass(frozen=True)
class Setting:
    """A data set with the network and the recipe that all variants get.

    Parameters
    ----------
    load : callable
        Gives the data.
    options : dict
        Of the network ``lenet``.
    recipe : dict
        What differs from the preset ``short``.
    """

    load: Callable[[], DataSet]
    options: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)

    def build(self, data: DataSet, scale: str | None, seed: int, recipe: Recipe) -> BinaryNetwork:
        """Build a variant to start training from."""
        model = build(
            "lenet",
            scale=scale or "none",
            num_classes=len(data.classes),
            input_size=data.image_shape[1:],
            in_channels=data.image_shape[0],
            seed=seed,
            randomize=False,
            **self.options,
        )
        init_scales_(model, recipe.scale_init)
        return model if scale else real_twin(model)


SETTINGS: dict[str, Setting] = {
    "digits": Setting(digits, recipe={"epochs": 15}),
    "shapes": Setting(
        lambda: shapes(16, train=5000, test=2000),
        options={"channels": (16, 32), "hidden": 128},
        recipe={"epochs": 10},
    ),
}
"""What is trained on each data set."""


def run_ablation(
    names: Sequence[str],
    seeds: int,
    folder: Path,
    *,
    variants: Sequence[str] = USUAL,
    **overrides: Any,
) -> dict[str, Any]:
    """Train all variants that are not in the results yet.

    Parameters
    ----------
    names : sequence of str
        Keys of `SETTINGS`.
    seeds : int
        Runs of each variant, with seeds from 0.
    folder : Path
        Of ``ablation.json``.
    variants : sequence of str
        Keys of `VARIANTS`.
    **overrides
        Fields of `Recipe` for all of them; None leaves the setting's.

    Returns
    -------
    dict
        What is in the file: by data set, the setting, the cost of each variant and its accuracies
        by seed.

    Raises
    ------
    DataError, TrainingError
        For unknown names, or results of another setting in the file.
    """
    _check(names, SETTINGS, "data set")
    _check(variants, VARIANTS, "variant")
    make_folder(folder)
    path = folder / RESULTS
    results: dict[str, Any] = _read(path)
    overrides = {key: value for key, value in overrides.items() if value is not None}
    total, done, start = len(names) * len(variants) * seeds, 0, time.perf_counter()
    trained = 0
    for name in names:
        setting = SETTINGS[name]
        recipe = make_recipe("short", **{**setting.recipe, **overrides})
        data = setting.load()
        part = _part(results, name, setting, recipe, data, path)
        for seed in range(seeds):
            for variant in variants:
                done += 1
                entry = part["variants"].setdefault(variant, {"accuracy": {}})
                if str(seed) in entry["accuracy"]:
                    continue
                model = setting.build(data, VARIANTS[variant], seed, recipe)
                entry["cost"] = cost(model).to_json()
                rows = train(model, data, recipe, seed=seed, options=Options(quiet=True))
                entry["accuracy"][str(seed)] = rows[-1].test_accuracy
                write_atomically(path, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
                trained += 1
                left = (time.perf_counter() - start) / trained * (total - done)
                log.info(
                    "%s, seed %d, %s: %.2f %% in %.0f s, %s left",
                    name,
                    seed,
                    variant,
                    100 * rows[-1].test_accuracy,
                    sum(row.seconds for row in rows),
                    duration(left),
                )
    return results


def _check(names: Sequence[str], known: dict[str, Any], what: str) -> None:
    for name in names:
        if name not in known:
            raise DataError(
                f"the ablation has no {what} {name!r}{near(name, known)}; "
                f"known are {', '.join(known)}"
            )


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        raise TrainingError(f"the results {path} cannot be read: {error}; remove them") from error


def _part(
    results: dict[str, Any],
    name: str,
    setting: Setting,
    recipe: Recipe,
    data: DataSet,
    path: Path,
) -> dict[str, Any]:
    """Return the results on one data set, which must be of the same setting."""
    about = {
        "network": {"name": "lenet", **_plain(setting.options)},
        "recipe": recipe.to_json(),
        "train_images": len(data.train.labels),
        "test_images": len(data.test.labels),
        "image_shape": list(data.image_shape),
    }
    part = results.setdefault(name, {"about": about, "variants": {}})
    if part["about"] != about:
        raise TrainingError(
            f"{path} holds results on {name} of another recipe or network; "
            "remove it, or name another folder"
        )
    return dict(part)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}

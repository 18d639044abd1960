# SPDX-License-Identifier: Apache-2.0
"""Recipes: everything about a training run but the data, the network and the machine.

``paper``
    XNOR-Net++'s: Adam, learning rate 1e-3 times 0.1 every 25 epochs, 80 epochs, weight decay 1e-5,
    batches of 256 as for ResNet-18. Recalled, not checked against the paper's text.
``paper-alexnet``
    The same with batches of 400, as for AlexNet.
``short``
    For small data: 30 epochs of Adam with a cosine schedule after one epoch of warm-up; scales
    start at the analytic ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from xnortvm.errors import TrainingError, near

from ..scale_init import SCALE_INITS


def _adam(parameters: Iterable[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, recipe.lr, weight_decay=recipe.weight_decay, fused=True)


def _adamw(parameters: Iterable[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay, fused=True)


def _sgd(parameters: Iterable[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters, recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay, fused=True
    )


OPTIMIZERS: dict[str, Callable[[Iterable[Tensor], Recipe], torch.optim.Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
}
"""Optimizers by name; ``sgd`` has momentum 0.9."""


def _step(epoch: float, recipe: Recipe) -> float:
    return recipe.factor ** (math.floor(epoch) // recipe.every)


def _cosine(epoch: float, recipe: Recipe) -> float:
    return 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))


SCHEDULES: dict[str, Callable[[float, Recipe], float]] = {"step": _step, "cosine": _cosine}
"""Factor on the learning rate by the epoch (a fraction within one), by name."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Parameters
    ----------
    epochs : int
        Passes over the training images.
    batch_size : int
        Images per step, of all processes together.
    optimizer : str
        A key of `OPTIMIZERS`.
    lr : float
        Learning rate at the start, after the warm-up.
    weight_decay : float
        On all parameters.
    schedule : str
        A key of `SCHEDULES`.
    every, factor : int, float
        Of the step schedule.
    warmup : float
        Epochs in which the learning rate grows linearly from 0.
    augment : bool
        Whether training images are augmented, each data set in its own way.
    label_smoothing : float
        Share of the target that is spread over all classes.
    scale_init : {"ones", "analytic"}
        Where Γ starts, see `models.scale_init`.

    Raises
    ------
    TrainingError
        For an unknown name or a number out of range.
    """

    epochs: int
    batch_size: int
    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "cosine"
    every: int = 25
    factor: float = 0.1
    warmup: float = 0.0
    augment: bool = True
    label_smoothing: float = 0.0
    scale_init: str = "ones"

    def __post_init__(self) -> None:
        for what, valid in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("scale_init", SCALE_INITS),
        ):
            value = getattr(self, what)
            if value not in valid:
                raise TrainingError(
                    f"the recipe has the unknown {what} {value!r}{near(value, valid)}; "
                    f"known are {', '.join(valid)}"
                )
        for what in ("epochs", "batch_size", "every", "lr"):
            if not getattr(self, what) > 0:
                raise TrainingError(
                    f"the recipe has {what}={getattr(self, what)}; take more than 0"
                )
        for what in ("weight_decay", "warmup", "label_smoothing"):
            if not getattr(self, what) >= 0:
                raise TrainingError(f"the recipe has {what}={getattr(self, what)}; take 0 or more")

    def learning_rate(self, epoch: float) -> float:
        """Return the learning rate at an epoch, which counts from 0 and has a fraction."""
        grown = min(1.0, epoch / self.warmup) if self.warmup else 1.0
        return self.lr * grown * SCHEDULES[self.schedule](epoch, self)

    def make_optimizer(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """Make the optimizer for a network's parameters."""
        return OPTIMIZERS[self.optimizer](parameters, self)

    def to_json(self) -> dict[str, Any]:
        """Return all fields as a dictionary."""
        return asdict(self)


_PAPER = Recipe(80, 256, "adam", 1e-3, 1e-5, "step", every=25, factor=0.1)

RECIPES: dict[str, Recipe] = {
    "paper": _PAPER,
    "paper-alexnet": replace(_PAPER, batch_size=400),
    "short": Recipe(30, 64, "adam", 3e-3, warmup=1, scale_init="analytic"),
}
"""The presets by name; see the table on top of this file."""


def make_recipe(name: str, **overrides: Any) -> Recipe:
    """Return a preset with some fields replaced.

    Parameters
    ----------
    name : str
        A key of `RECIPES`.
    **overrides
        Fields of `Recipe`; None leaves the preset's.

    Raises
    ------
    TrainingError
        For an unknown name, or a field out of range.

    Examples
    --------
    >>> make_recipe("paper", epochs=2).learning_rate(0)
    0.001
    """
    if name not in RECIPES:
        raise TrainingError(
            f"there is no recipe {name!r}{near(name, RECIPES)}; known are {', '.join(RECIPES)}"
        )
    known = {field.name for field in fields(Recipe)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise TrainingError(
            f"a recipe has no field {unknown[0]!r}{near(unknown[0], known)}; "
            f"it has {', '.join(sorted(known))}"
        )
    return replace(RECIPES[name], **{k: v for k, v in overrides.items() if v is not None})

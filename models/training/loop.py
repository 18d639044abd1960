# SPDX-License-Identifier: Apache-2.0
"""The training loop.

A run is a function of (model, data, recipe, seed): the order of images, their augmentation and the
learning rate follow from the seed and the step, and what else changes (parameters, running
statistics, optimizer, loss scaling, torch's random state, sums of the epoch) is in the state on
disk. So a run that was killed goes on bit-identically, on a CPU with the same number of threads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xnortvm.errors import DataError, TrainingError, near

from ..blocks import BinaryNetwork
from ..files import make_folder
from ..saved import save
from ..spec import spec_of
from .data import DataSet, test_batches, train_batches
from .group import Group
from .journal import draw_curve, write_log
from .progress import EpochRow, Progress, log
from .recipe import Recipe
from .state import FILE, check_same_run, load_state, save_state

WEIGHTS = "model.safetensors"
PRECISIONS: dict[str, torch.dtype | None] = {
    "float32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Of convolutions and products while training; parameters and scales stay float32."""

_TEST_BATCH = 256


@dataclass(frozen=True)
class Options:
    """How a run behaves, other than what it computes.

    Parameters
    ----------
    output : Path, optional
        Folder for weights, state, logs and the curve; None keeps everything in memory.
    resume : bool
        Go on from the state in `output`.
    precision : str
        A key of `PRECISIONS`.
    save_steps : int, optional
        Save the state every so many steps too, not only after each epoch.
    quiet : bool
        Say nothing.
    """

    output: Path | None = None
    resume: bool = False
    precision: str = "float32"
    save_steps: int | None = None
    quiet: bool = False


@dataclass
class Position:
    """Where a run is.

    Parameters
    ----------
    epoch, step : int
        The epoch, and the step in it, that comes next.
    sums : Tensor
        (3,), float64: loss, correct images and images of this epoch so far, in this process.
    seconds : float
        Spent on this epoch so far.
    """

    epoch: int
    step: int
    sums: Tensor
    seconds: float = 0.0


def train(
    model: nn.Module,
    data: DataSet,
    recipe: Recipe,
    *,
    seed: int = 0,
    options: Options | None = None,
    group: Group | None = None,
) -> list[EpochRow]:
    """Train a network in place.

    Parameters
    ----------
    model : nn.Module
        Any classifier of (n, c, h, w) images; to be saved it has to come from `models.build` or
        `models.binarize`.
    data : DataSet
        What to train and test on.
    recipe : Recipe
        How. Its `scale_init` is for whoever builds the model, see `init_scales_`.
    seed : int
        Of the order, the augmentation, and torch's global generator.
    options : Options, optional
        Files, precision, messages.
    group : Group, optional
        This process among those that train together; alone on the CPU by default.

    Returns
    -------
    list of EpochRow
        The log. The network is in evaluation mode.

    Raises
    ------
    DataError
        When the data do not fit the network.
    TrainingError
        When a run cannot be started or resumed as asked, or the loss is not finite.
    OutputError
        When a file cannot be written; no former one is lost.
    """
    run = Run(model, data, recipe, seed, options or Options(), group or Group(torch.device("cpu")))
    return run.go()


class Run:
    """One training run; see `train` for the arguments."""

    def __init__(
        self,
        model: nn.Module,
        data: DataSet,
        recipe: Recipe,
        seed: int,
        options: Options,
        group: Group,
    ) -> None:
        check_fit(model, data)
        self.steps = len(data.train.labels) // recipe.batch_size
        if self.steps == 0 or recipe.batch_size % group.world:
            raise TrainingError(
                f"batches of {recipe.batch_size} images do not go with {len(data.train.labels)} "
                f"training images and {group.world} processes; take a smaller batch size, and a "
                "multiple of the number of processes"
            )
        if options.precision not in PRECISIONS:
            raise TrainingError(
                f"{options.precision!r} is no precision{near(options.precision, PRECISIONS)}; "
                f"known are {', '.join(PRECISIONS)}"
            )
        dtype = PRECISIONS[options.precision]
        if dtype == torch.float16 and group.device.type != "cuda":
            raise TrainingError("float16 training needs a GPU; take bfloat16 or float32 on a CPU")
        self.dtype = dtype
        self.model, self.data, self.recipe, self.seed = model, data, recipe, seed
        self.options, self.group = options, group
        self.rows: list[EpochRow] = []
        model.to(group.device)
        torch.manual_seed(seed)
        self.optimizer = recipe.make_optimizer(model.parameters())
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=dtype == torch.float16)
        self.position = self._fresh(0)
        spec = spec_of(model)
        self.about: dict[str, Any] = {
            **data.describe(),
            "network": spec.to_json() if spec else type(model).__name__,
            "recipe": recipe.to_json(),
            "seed": seed,
            "precision": options.precision,
            "processes": group.world,
        }

    def go(self) -> list[EpochRow]:
        """Run to the end, from the start or from where the state says."""
        folder = self.options.output
        if folder is not None:
            self._open(folder)
        called = self.group.wrap(self.model)
        done = self.position.epoch * self.steps + self.position.step
        quiet = self.options.quiet or not self.group.leads
        progress = Progress(self.recipe.epochs, self.steps, done, quiet=quiet)
        while self.position.epoch < self.recipe.epochs:
            row = self._epoch(called, progress)
            self.rows.append(row)
            self.position = self._fresh(row.epoch)
            progress.epoch(row)
            self._save()
        self.model.eval()
        if folder is not None and self.group.leads and self.rows:
            draw_curve(folder, self.rows, f"{self.data.name}, seed {self.seed}")
        self.group.wait()
        return self.rows

    def _epoch(self, called: nn.Module, progress: Progress) -> EpochRow:
        start = time.perf_counter() - self.position.seconds
        here = self.position
        called.train()
        batches = train_batches(
            self.data.train,
            self.recipe.batch_size,
            self.seed,
            here.epoch,
            start=here.step,
            rank=self.group.rank,
            world=self.group.world,
            augment=self.recipe.augment,
        )
        rate = 0.0
        for images, labels in batches:
            rate = self.recipe.learning_rate(here.epoch + here.step / self.steps)
            loss = self._step(called, images, labels, rate)
            here.step += 1
            progress.step(here.epoch, loss)
            every = self.options.save_steps
            if every and here.step % every == 0 and here.step < self.steps:
                here.seconds = time.perf_counter() - start
                self._save()
        self.group.average_buffers_(self.model)
        accuracy = evaluate(self.model, self.data, self.group)
        loss_sum, correct, count = self.group.sum(here.sums).tolist()
        return EpochRow(
            here.epoch + 1,
            rate,
            loss_sum / count,
            correct / count,
            accuracy,
            time.perf_counter() - start,
        )

    def _step(self, called: nn.Module, images: Tensor, labels: Tensor, rate: float) -> float:
        images, labels = images.to(self.group.device), labels.to(self.group.device)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        with torch.autocast(self.group.device.type, self.dtype, enabled=self.dtype is not None):
            logits = called(images)
        loss = functional.cross_entropy(
            logits.float(), labels, label_smoothing=self.recipe.label_smoothing
        )
        value = float(loss.detach())
        if not value < float("inf"):
            raise TrainingError(
                f"the loss is {value} in epoch {self.position.epoch + 1}, step "
                f"{self.position.step + 1}; take a smaller learning rate than {self.recipe.lr}, "
                "the state that was saved last is whole"
            )
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        correct = int((logits.detach().argmax(1) == labels).sum())
        self.position.sums += torch.tensor([value * len(labels), correct, len(labels)])
        return value

    def _fresh(self, epoch: int) -> Position:
        return Position(epoch, 0, torch.zeros(3, dtype=torch.float64))

    def _open(self, folder: Path) -> None:
        """Take over the state in the folder, or see that there is none to be overwritten."""
        if self.options.resume:
            self._restore(load_state(folder), folder)
            return
        if (folder / FILE).exists():
            raise TrainingError(
                f"{folder} holds a run already; go on with it by --resume, or name another folder"
            )
        if self.group.leads:
            make_folder(folder)
        self.group.wait()

    def _restore(self, state: dict[str, Any], folder: Path) -> None:
        check_same_run(state["about"], self.about, folder)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if self.group.device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.group.device)
        self.rows = [EpochRow(**row) for row in state["rows"]]
        sums = state["sums"][self.group.rank].clone()
        self.position = Position(state["epoch"], state["step"], sums, state["seconds"])
        if self.group.leads and not self.options.quiet:
            log.info("going on with %s after %d epochs", folder, self.position.epoch)
        if self.group.leads and self.rows and self.position.step == 0:
            self._publish(folder)  # the run may have ended between the state and these

    def _save(self) -> None:
        folder, here = self.options.output, self.position
        if folder is None:
            return
        sums = torch.zeros(self.group.world, 3, dtype=torch.float64)
        sums[self.group.rank] = here.sums
        sums = self.group.sum(sums)
        if not self.group.leads:
            return
        cuda = self.group.device.type == "cuda"
        state = {
            "about": self.about,
            "epoch": here.epoch,
            "step": here.step,
            "seconds": here.seconds,
            "sums": sums,
            "rows": [row.to_json() for row in self.rows],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.group.device) if cuda else None,
        }
        save_state(folder, state)
        if here.step == 0:
            self._publish(folder)

    def _publish(self, folder: Path) -> None:
        """Write what is for others: log and weights after a whole epoch."""
        write_log(folder, self.about, self.rows)
        if spec_of(self.model) is not None:
            last = self.rows[-1]
            trained = {**self.about, "test_accuracy": last.test_accuracy, "epochs": last.epoch}
            trained.pop("network")
            save(self.model, folder / WEIGHTS, trained=trained)


@torch.no_grad()
def evaluate(model: nn.Module, data: DataSet, group: Group | None = None) -> float:
    """Return the share of test images whose largest logit is that of their class.

    The network is left in evaluation mode.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    group = group or Group(device)
    model.eval()
    correct = torch.zeros((), dtype=torch.float64)
    for images, labels in test_batches(data.test, _TEST_BATCH, rank=group.rank, world=group.world):
        logits = model(images.to(device))
        correct += (logits.argmax(1).cpu() == labels).sum()
    return float(group.sum(correct)) / len(data.test.labels)


def check_fit(model: nn.Module, data: DataSet) -> None:
    """Refuse a network that was built for other images or classes than the data have.

    Raises
    ------
    DataError
        With both shapes, or both numbers of classes.
    """
    if not isinstance(model, BinaryNetwork):
        return
    if model.num_classes != len(data.classes):
        raise DataError(
            f"{data.name} has {len(data.classes)} classes and the network {model.num_classes}; "
            f"build it with num_classes={len(data.classes)}"
        )
    if tuple(model.input_shape) != tuple(data.image_shape):
        c, h, w = data.image_shape
        channels, height, width = model.input_shape
        raise DataError(
            f"{data.name} has images of {c}×{h}×{w} (channels, height, width) and the network is "
            f"built for {channels}×{height}×{width}; build it with input_size=({h}, {w}) and the "
            "same number of channels"
        )

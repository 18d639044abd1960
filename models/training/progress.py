# SPDX-License-Identifier: Apache-2.0
"""What is said while a network trains, with the time that is left."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from typing import Any

log = logging.getLogger("xnortvm.models.training")

_QUIET_SECONDS = 30.0


@dataclass(frozen=True)
class EpochRow:
    """One epoch in the log.

    Parameters
    ----------
    epoch : int
        Counted from 1.
    lr : float
        Learning rate of the last step.
    loss : float
        Mean training loss.
    train_accuracy, test_accuracy : float
        Shares of 1; the first one with augmentation, while the network was changing.
    seconds : float
        Time of the epoch, test included.
    """

    epoch: int
    lr: float
    loss: float
    train_accuracy: float
    test_accuracy: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return all fields as a dictionary."""
        return asdict(self)


class Progress:
    """Says how far a run is and when it will end.

    Parameters
    ----------
    epochs, steps : int
        Epochs of the run and steps of an epoch.
    done : int
        Steps that were done before this process started.
    quiet : bool
        Whether to say nothing.
    """

    def __init__(self, epochs: int, steps: int, done: int, *, quiet: bool) -> None:
        self.epochs, self.steps, self.quiet = epochs, steps, quiet
        self.first = self.done = done
        self.start = self.said = time.perf_counter()

    def step(self, epoch: int, loss: float) -> None:
        """Note a step; say so if nothing was said for a while."""
        self.done += 1
        now = time.perf_counter()
        if not self.quiet and now - self.said > _QUIET_SECONDS:
            self.said = now
            log.info(
                "epoch %d/%d, step %d/%d: loss %.3f, %s left",
                epoch + 1,
                self.epochs,
                self.done - epoch * self.steps,
                self.steps,
                loss,
                self.left(),
            )

    def epoch(self, row: EpochRow) -> None:
        """Say how an epoch went."""
        if self.quiet:
            return
        self.said = time.perf_counter()
        log.info(
            "epoch %d/%d: loss %.3f, training %.1f %%, test %.1f %%, lr %.1e, %.1f s, %s left",
            row.epoch,
            self.epochs,
            row.loss,
            100 * row.train_accuracy,
            100 * row.test_accuracy,
            row.lr,
            row.seconds,
            self.left(),
        )

    def left(self) -> str:
        """Return the time that is left, judged by this process's own steps."""
        passed = time.perf_counter() - self.start
        remaining = self.epochs * self.steps - self.done
        return duration(passed / max(1, self.done - self.first) * remaining)


def duration(seconds: float) -> str:
    """Write a duration for people.

    Examples
    --------
    >>> duration(7), duration(95), duration(7260)
    ('7 s', '1 min 35 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

# SPDX-License-Identifier: Apache-2.0
"""Data sets: splits that give batches as a function of seeds, so that any batch can be had again.

Nothing here keeps a random state. The order of an epoch and the augmentation of a batch follow from
(seed, epoch, batch); a run that is resumed in the middle of an epoch sees what it would have seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Augment = Callable[[Tensor, torch.Generator], Tensor]


class Split(Protocol):
    """The training or the test images of a data set."""

    labels: Tensor
    """(n,), int64."""

    in_memory: bool
    """Whether a batch costs next to nothing, so that fetching ahead would not help."""

    def batch(self, indices: Tensor, seed: int | None) -> Tensor:
        """Return images (b, c, h, w), float32, normalised.

        Parameters
        ----------
        indices : Tensor
            (b,), int64.
        seed : int or None
            Of the augmentation; None leaves images as they are.
        """


@dataclass(frozen=True)
class DataSet:
    """A training and a test split.

    Parameters
    ----------
    name : str
        For messages and logs.
    train, test : Split
        The images.
    image_shape : tuple of int
        (c, h, w) of what `Split.batch` gives.
    classes : tuple of str
        Names of the classes.
    mean, std : tuple of float
        Per channel, of pixels in 0 ... 1: what a user of the trained model has to normalise by.
    """

    name: str
    train: Split
    test: Split
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def describe(self) -> dict[str, object]:
        """Return what a saved model should remember of its data."""
        return {
            "data": self.name,
            "image_shape": list(self.image_shape),
            "classes": list(self.classes),
            "mean": list(self.mean),
            "std": list(self.std),
        }


class MemorySplit:
    """Images that lie in memory as bytes.

    Parameters
    ----------
    images : Tensor
        (n, c, h, w), uint8, from 0 to `full`.
    labels : Tensor
        (n,), int64.
    mean, std : tuple of float
        Per channel, of ``images / full``.
    augment : callable, optional
        ``augment(images, generator)`` on float images before they are normalised.
    full : int
        The value of white.
    """

    in_memory = True

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augment: Augment | None = None,
        full: int = 255,
    ) -> None:
        self.images = images
        self.labels = labels
        self.augment = augment
        self.full = full
        self.mean = torch.tensor(mean).reshape(-1, 1, 1)
        self.std = torch.tensor(std).reshape(-1, 1, 1)

    def batch(self, indices: Tensor, seed: int | None) -> Tensor:
        """See `Split.batch`."""
        images = self.images[indices].float() / self.full
        if seed is not None and self.augment is not None:
            images = self.augment(images, torch.Generator().manual_seed(seed))
        return (images - self.mean) / self.std


def derive_seed(*numbers: int) -> int:
    """Mix numbers to a seed, so that neighbouring ones give unrelated random streams.

    Examples
    --------
    >>> derive_seed(0, 1) == derive_seed(1, 0)
    False
    """
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return int.from_bytes(digest[:7], "little")


def epoch_order(size: int, seed: int, epoch: int) -> Tensor:
    """Return the order of the training images in one epoch, (size,)."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(derive_seed(seed, epoch)))


def train_batches(
    split: Split,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    augment: bool = True,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give the batches of one epoch; what does not fill a batch is left for another epoch.

    Parameters
    ----------
    split : Split
        Training images.
    batch_size : int
        Of all processes together.
    seed, epoch : int
        What the order and the augmentation follow from.
    start : int
        The batch to begin with.
    rank, world : int
        This process and their number; each gets an equal share of every batch.
    augment : bool
        Whether to augment.
    """
    order = epoch_order(len(split.labels), seed, epoch)
    share = batch_size // world

    def get(batch: int) -> tuple[Tensor, Tensor]:
        first = batch * batch_size + rank * share
        indices = order[first : first + share]
        mixed = derive_seed(seed, epoch, batch, rank) if augment else None
        return split.batch(indices, mixed), split.labels[indices]

    yield from _ahead(get, range(start, len(order) // batch_size), split.in_memory)


def test_batches(
    split: Split, batch_size: int, *, rank: int = 0, world: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give every `world`-th test image beginning with `rank`, in batches."""
    indices = torch.arange(rank, len(split.labels), world)

    def get(batch: int) -> tuple[Tensor, Tensor]:
        chosen = indices[batch * batch_size : (batch + 1) * batch_size]
        return split.batch(chosen, None), split.labels[chosen]

    yield from _ahead(get, range(-(-len(indices) // batch_size)), split.in_memory)


test_batches.__test__ = False  # type: ignore[attr-defined]  # no test for pytest to collect


def _ahead(
    get: Callable[[int], tuple[Tensor, Tensor]], batches: range, in_memory: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give batches; where they take time, prepare the next one while one is used."""
    if in_memory:
        yield from map(get, batches)
        return
    with ThreadPoolExecutor(1) as executor:
        waiting: Future[tuple[Tensor, Tensor]] | None = None
        for batch in batches:
            ready = waiting.result() if waiting is not None else get(batch)
            waiting = executor.submit(get, batch + 1) if batch + 1 in batches else None
            yield ready

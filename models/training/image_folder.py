# SPDX-License-Identifier: Apache-2.0
"""ImageNet as a folder: ``train/CLASS/IMAGE`` and ``val/CLASS/IMAGE``, JPEG or PNG.

Training images are cropped at random to 8 ... 100 % of their area at an aspect ratio of 3/4 to 4/3,
scaled, and mirrored with probability 1/2; test images are scaled so that the short side is 256/224
of the input size, and cropped in the middle. Both are what ImageNet recipes usually do.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xnortvm.errors import DataError, MissingDependencyError

from .data import DataSet, derive_seed

SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".bmp", ".webp"})
_TEST_NAMES = ("val", "validation", "test")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SHORT_SIDE = 256 / 224


def image_folder(
    folder: str | Path, input_size: int | tuple[int, int] = 224, workers: int | None = None
) -> DataSet:
    """Find the images of a folder.

    Parameters
    ----------
    folder : str or Path
        With ``train`` and ``val`` (or ``validation``, or ``test``) in it.
    input_size : int or (int, int)
        What images are cropped to.
    workers : int, optional
        Threads that read images; as many as there are processors by default.

    Raises
    ------
    DataError
        When a folder is missing or empty, or both splits differ in their classes.
    MissingDependencyError
        Without pillow.
    """
    folder = Path(folder)
    _pillow()
    if not folder.is_dir():
        raise DataError(
            f"the data folder {folder} does not exist; name one with train/ and val/ in it"
        )
    train = folder / "train"
    test = next((folder / n for n in _TEST_NAMES if (folder / n).is_dir()), folder / _TEST_NAMES[0])
    classes = _classes(train)
    extra = sorted({*_classes(test)} ^ {*classes})
    if extra:
        raise DataError(
            f"{train} and {test} differ in their classes: {len(extra)} are in one of them only, "
            f"such as {extra[0]!r}; both need the same folders"
        )
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    workers = workers or os.cpu_count() or 1
    return DataSet(
        folder.name,
        FolderSplit(train, classes, size, workers),
        FolderSplit(test, classes, size, workers),
        (3, *size),
        tuple(classes),
        _MEAN,
        _STD,
    )


class FolderSplit:
    """Images that are read when they are needed, by several threads.

    Parameters
    ----------
    folder : Path
        With one folder per class.
    classes : list of str
        Their names, in the order of the labels.
    size : (int, int)
        Height and width of what is given.
    workers : int
        Number of threads.
    """

    in_memory = False

    def __init__(
        self, folder: Path, classes: list[str], size: tuple[int, int], workers: int
    ) -> None:
        found = [(path, k) for k, name in enumerate(classes) for path in _images(folder / name)]
        if not found:
            raise DataError(
                f"{folder} holds no images: no class folder has files called "
                f"{', '.join(sorted(SUFFIXES))}"
            )
        self.paths = [path for path, _ in found]
        self.labels = torch.tensor([label for _, label in found])
        self.size = size
        self._pool = ThreadPoolExecutor(workers)

    def batch(self, indices: Tensor, seed: int | None) -> Tensor:
        """See `Split.batch`.

        Raises
        ------
        DataError
            Names the image that cannot be read.
        """
        seeds = [None if seed is None else derive_seed(seed, k) for k in range(len(indices))]
        paths = [self.paths[index] for index in indices.tolist()]
        images = torch.stack(list(self._pool.map(self._one, paths, seeds))).float() / 255
        return (images - torch.tensor(_MEAN).reshape(-1, 1, 1)) / torch.tensor(_STD).reshape(
            -1, 1, 1
        )

    def _one(self, path: Path, seed: int | None) -> Tensor:
        pillow = _pillow()
        try:
            with pillow.open(path) as file:
                image = file.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(
                f"the image {path} cannot be read: {error}; replace or remove it"
            ) from error
        height, width = self.size
        mirrored = False
        if seed is None:
            box = _middle(image.size, self.size)
        else:
            generator = torch.Generator().manual_seed(seed)
            box = random_box(image.size, generator)
            mirrored = bool(torch.rand((), generator=generator) < 0.5)
        image = image.resize((width, height), pillow.Resampling.BILINEAR, box=box)
        if mirrored:
            image = image.transpose(pillow.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image)).movedim(2, 0)


def random_box(
    size: tuple[int, int], generator: torch.Generator
) -> tuple[float, float, float, float]:
    """Choose a part of an image: (left, top, right, bottom) within a (width, height)."""
    width, height = size
    for _ in range(10):
        area, ratio, x, y = torch.rand(4, generator=generator).tolist()
        wanted = width * height * (0.08 + 0.92 * area)
        aspect = math.exp((2 * ratio - 1) * math.log(4 / 3))
        w, h = round(math.sqrt(wanted * aspect)), round(math.sqrt(wanted / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = math.floor(x * (width - w + 1)), math.floor(y * (height - h + 1))
            return left, top, left + w, top + h
    side = min(width, height)  # the image is very long: its middle
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _middle(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[float, float, float, float]:
    width, height = size
    # Scaling to a short side and cropping then is cropping to this part and scaling.
    scale = min(width / wanted[1], height / wanted[0]) / _SHORT_SIDE
    w, h = wanted[1] * scale, wanted[0] * scale
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(
            f"the data folder {folder} does not exist; it needs a folder for each class"
        )
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not names:
        raise DataError(f"the data folder {folder} is empty; it needs a folder for each class")
    return names


def _images(folder: Path) -> Iterator[Path]:
    return iter(sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES))


def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "PIL":
            raise
        raise MissingDependencyError(
            "folders of images need pillow, which is not installed; "
            'run: pip install "xnortvm[train]"'
        ) from error

# SPDX-License-Identifier: Apache-2.0
"""The data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from xnortvm.errors import DataError, near

from .cifar10 import cifar10
from .data import DataSet
from .digits import digits
from .image_folder import image_folder
from .shapes import shapes

InputSize = int | tuple[int, int] | None


@dataclass(frozen=True)
class Source:
    """One row of `SOURCES`.

    Parameters
    ----------
    load : callable
        ``load(folder, input_size)``.
    needs_folder : bool
        Whether the images lie in files of the user.
    sizes : bool
        Whether `input_size` can be chosen.
    network : str
        The network that is trained on it unless another one is named.
    """

    load: Callable[[Path, InputSize], DataSet]
    needs_folder: bool = False
    sizes: bool = False
    network: str = "lenet"


SOURCES: dict[str, Source] = {
    "digits": Source(lambda folder, size: digits()),
    "shapes": Source(lambda folder, size: shapes(size or 16), sizes=True),
    "cifar10": Source(
        lambda folder, size: cifar10(folder), needs_folder=True, network="resnet18-cifar"
    ),
    "imagenet": Source(
        lambda folder, size: image_folder(folder, size or 224),
        needs_folder=True,
        sizes=True,
        network="resnet18",
    ),
}
"""Data sets by name; ``imagenet`` is any folder of images in ImageNet's structure."""


def load_data(name: str, folder: str | Path | None = None, input_size: InputSize = None) -> DataSet:
    """Load a data set; none is ever downloaded.

    Parameters
    ----------
    name : str
        A key of `SOURCES`.
    folder : str or Path, optional
        Where the files are, for ``cifar10`` and ``imagenet``.
    input_size : int or (int, int), optional
        Of the images, for ``shapes`` and ``imagenet``.

    Raises
    ------
    DataError
        For an unknown name, a missing or needless argument, or missing or damaged files.
    """
    if name not in SOURCES:
        raise DataError(
            f"there is no data set {name!r}{near(name, SOURCES)}; known are {', '.join(SOURCES)}"
        )
    source = SOURCES[name]
    if source.needs_folder and folder is None:
        raise DataError(f"{name} is read from files and none are downloaded; name their folder")
    if folder is not None and not source.needs_folder:
        raise DataError(f"{name} needs no files; leave the folder {folder} away")
    if input_size is not None and not source.sizes:
        raise DataError(f"the images of {name} have one size; leave the input size away")
    return source.load(Path(folder or "."), input_size)

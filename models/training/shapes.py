# SPDX-License-Identifier: Apache-2.0
"""A generated set of images that is harder than digits: coloured, textured shapes in clutter.

An image shows one of five outlines (disc, square, triangle, ring, cross) filled with one of two
textures (stripes, checks): ten classes. Position, size, rotation, colours, contrast, texture phase,
the gradient behind it, two discs that may cover parts of it, and noise are random. The classes
differ in fine contrast within the shape, which the signs of activations carry badly, so that a
real-valued network is clearly better than its binary twin.

Every number comes from a hash of (seed, split, image, draw), in integer arithmetic: image `i` of a
split is the same on every machine and for every number of images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from xnortvm.errors import DataError

from .augment import flip
from .data import DataSet, MemorySplit

OUTLINES = ("disc", "square", "triangle", "ring", "cross")
TEXTURES = ("stripes", "checks")
CLASSES = tuple(f"{outline} with {texture}" for outline in OUTLINES for texture in TEXTURES)

_MEAN, _STD = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
_SPLITS = {"train": 1, "test": 2}
_CHUNK = 1 << 22  # pixels that are rendered at once
_NOISE = 0.04
_PERIOD = 4.0 / 16  # of a texture, as a share of the image's side

Array = np.ndarray[Any, Any]


def shapes(
    input_size: int | tuple[int, int] = 16, train: int = 2000, test: int = 2000, seed: int = 0
) -> DataSet:
    """Generate the set; training images are mirrored at random.

    Parameters
    ----------
    input_size : int or (int, int)
        Height and width; 224 makes images of ImageNet's size.
    train, test : int
        Numbers of images.
    seed : int
        Another seed gives another set of the same kind.

    Raises
    ------
    DataError
        For images below 8 pixels, or no images.
    """
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    if min(size) < 8 or min(train, test) < 1:
        raise DataError(
            f"shapes of {size[0]}×{size[1]} pixels, {train} to train and {test} to test with, "
            "cannot be generated; take at least 8×8 pixels and one image of each"
        )
    splits = {}
    for name, count in (("train", train), ("test", test)):
        labels = torch.arange(count) % len(CLASSES)
        images = torch.from_numpy(render(np.arange(count), size, (seed, _SPLITS[name])))
        augment = flip if name == "train" else None
        splits[name] = MemorySplit(images, labels, _MEAN, _STD, augment)
    return DataSet("shapes", splits["train"], splits["test"], (3, *size), CLASSES, _MEAN, _STD)


def render(indices: Array, size: tuple[int, int], key: tuple[int, int]) -> Array:
    """Draw images.

    Parameters
    ----------
    indices : ndarray
        (n,), which images; image i has class ``i % 10``.
    size : (int, int)
        Height and width.
    key : (int, int)
        Seed and split.

    Returns
    -------
    ndarray
        (n, 3, h, w), uint8.
    """
    chunk = max(1, _CHUNK // (3 * size[0] * size[1]))
    parts = [indices[first : first + chunk] for first in range(0, len(indices), chunk)]
    return np.concatenate([_render(part.astype(np.uint64), size, key) for part in parts])


def _render(indices: Array, size: tuple[int, int], key: tuple[int, int]) -> Array:
    height, width = size
    side = min(size)
    draws = _uniform(key, indices[:, None], np.arange(32, dtype=np.uint64))
    column = [draws[:, k, None, None] for k in range(32)]
    label = (indices % np.uint64(len(CLASSES))).astype(np.int64)

    # Coordinates in -1 ... 1 along the short side, then in the frame of the shape.
    y = ((np.arange(height) + 0.5 - height / 2) * 2 / side)[None, :, None]
    x = ((np.arange(width) + 0.5 - width / 2) * 2 / side)[None, None, :]
    radius = 0.65 + 0.2 * column[0]
    angle = 2 * np.pi * column[1]
    dx, dy = x - 0.4 * (column[2] - 0.5), y - 0.4 * (column[3] - 0.5)
    a = (np.cos(angle) * dx + np.sin(angle) * dy) / radius
    b = (np.cos(angle) * dy - np.sin(angle) * dx) / radius

    outline, texture = label // len(TEXTURES), label % len(TEXTURES)
    distance = np.choose(outline[:, None, None], _distances(a, b))
    inside = _soft(-distance * radius * side / 2)

    wave = 2 * np.pi / (2 * _PERIOD)
    turn = 2 * np.pi * column[4]
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    first = np.sin(wave * u + 2 * np.pi * column[5])
    second = np.sin(wave * v + 2 * np.pi * column[6])
    pattern = np.where(texture[:, None, None] == 0, first, first * second * 1.4)

    gradient = (column[7] - 0.5) * x + (column[8] - 0.5) * y
    contrast = 0.1 + 0.15 * column[9]
    channels = []
    for c in range(3):
        ground = 0.5 + 0.3 * (column[10 + c] - 0.5) + 0.25 * gradient
        fill = 0.5 * (column[13 + c] - 0.5)
        tone = contrast * (0.4 + 1.2 * column[16 + c]) * pattern
        channels.append(ground + inside * (fill + tone))
    image = np.stack(channels, 1)

    for k in range(2):  # discs that may cover something
        px, py = 1.6 * (column[19 + 2 * k] - 0.5), 1.6 * (column[20 + 2 * k] - 0.5)
        far = np.sqrt((x - px) ** 2 + (y - py) ** 2) - (0.12 + 0.12 * column[23 + k])
        cover = _soft(-far * side / 2)[:, None]
        colour = draws[:, 25 + 3 * k : 28 + 3 * k, None, None]
        image = image * (1 - cover) + cover * (0.2 + 0.6 * colour)

    pixels = np.arange(32, 32 + 3 * height * width, dtype=np.uint64)
    noise = _uniform(key, indices[:, None], pixels) + _uniform(key, indices[:, None], ~pixels) - 1
    image += _NOISE * np.sqrt(6.0) * noise.reshape(image.shape)
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)


def _distances(a: Array, b: Array) -> list[Array]:
    """Return how far a point lies outside of each outline, (n, h, w), in the frame of the shape."""
    r = np.sqrt(a * a + b * b)
    bars = [np.maximum(np.abs(p) - 1.0, np.abs(q) - 0.33) for p, q in ((a, b), (b, a))]
    corner = np.maximum(0.866 * np.abs(a) + 0.5 * b, -b)
    return [
        r - 0.9,
        np.maximum(np.abs(a), np.abs(b)) - 0.8,
        corner - 0.6,
        np.abs(r - 0.7) - 0.25,
        np.minimum(*bars),
    ]


def _soft(pixels: Array) -> Array:
    """Give 1 inside and 0 outside of an edge one pixel wide."""
    return np.clip(pixels + 0.5, 0.0, 1.0)


def _uniform(key: tuple[int, int], index: Array, draw: Array) -> Array:
    """Hash to numbers in 0 ... 1: SplitMix64's finaliser, three times over."""
    seed, split = (np.uint64(number % 2**64) for number in key)
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(_mix(seed * np.uint64(4) + split) + index) + draw)
    return (mixed >> np.uint64(11)) * 2.0**-53


def _mix(value: Any) -> Any:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))

# SPDX-License-Identifier: Apache-2.0
"""Random changes of whole batches of training images, drawn from a generator of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from .data import Augment


def shift(pixels: int) -> Augment:
    """Make an augmentation that moves each image by up to `pixels` in both axes, filling with 0.

    It is what "pad and crop at random" does.
    """

    def apply(images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        padded = torch.nn.functional.pad(images, (pixels,) * 4)
        top, left = torch.randint(2 * pixels + 1, (2, count, 1), generator=generator)
        rows = (top + torch.arange(height))[:, :, None]
        columns = (left + torch.arange(width))[:, None, :]
        # Advanced indices around a slice put the indexed axes in front: (n, h, w, c).
        return padded[torch.arange(count)[:, None, None], :, rows, columns].movedim(-1, 1)

    return apply


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image with probability 1/2."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def chain(*steps: Augment) -> Augment:
    """Make an augmentation of several, one after the other."""

    def apply(images: Tensor, generator: torch.Generator) -> Tensor:
        for step in steps:
            images = step(images, generator)
        return images

    return apply

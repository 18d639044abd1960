# SPDX-License-Identifier: Apache-2.0
"""The binary convolutions of ResNet-18: what is timed, and what the roofline models."""

from __future__ import annotations

from typing import NamedTuple


class Layer(NamedTuple):
    """A square convolution with "same" padding.

    Attributes
    ----------
    copies : int
        How many of them the network has.
    channels, outputs : int
    size : int
        Rows and columns of the image that it reads.
    stride : int
    kernel : int
    """

    copies: int
    channels: int
    outputs: int
    size: int
    stride: int = 1
    kernel: int = 3

    @property
    def name(self) -> str:
        """Such as ``"3x3 64-128 56 s2"``."""
        form = f"{self.kernel}x{self.kernel} {self.channels}-{self.outputs} {self.size}"
        return form + (f" s{self.stride}" if self.stride > 1 else "")

    @property
    def out(self) -> int:
        """Rows and columns of the image that it gives."""
        return -(-self.size // self.stride)

    def macs(self, batch: int) -> int:
        """Return its multiply-accumulates."""
        return batch * self.out**2 * self.outputs * self.channels * self.kernel**2


LAYERS = (
    Layer(4, 64, 64, 56),
    Layer(1, 64, 128, 56, 2),
    Layer(3, 128, 128, 28),
    Layer(1, 128, 256, 28, 2),
    Layer(3, 256, 256, 14),
    Layer(1, 256, 512, 14, 2),
    Layer(3, 512, 512, 7),
)
BATCHES = (1, 8, 64, 256)

# SPDX-License-Identifier: Apache-2.0
"""The layouts of packed data and the border table of zero padding, in NumPy.

Bits are packed along the channels, lowest bit first, in words of 32; bit 1 means −1. Channels
of each group are padded to whole words with bits 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORD = 32


def words(channels: int) -> int:
    """Return how many 32-bit words hold ``channels`` bits."""
    return -(-channels // WORD)


def pack(negative: NDArray[np.bool_], groups: int = 1) -> NDArray[np.uint32]:
    """Pack booleans along the last axis.

    Parameters
    ----------
    negative : (..., C) bool
        True where the value is −1.
    groups : int
        Every ``C / groups`` channels start a new word.

    Returns
    -------
    (..., groups * ceil(C / groups / 32)) uint32

    Examples
    --------
    >>> pack(np.array([True, False, True]))
    array([5], dtype=uint32)
    """
    bits = np.asarray(negative, dtype=bool)
    lead, per_group = bits.shape[:-1], bits.shape[-1] // groups
    padded = np.zeros((*lead, groups, words(per_group) * WORD), dtype=bool)
    padded[..., :per_group] = bits.reshape(*lead, groups, per_group)
    packed = np.packbits(padded, axis=-1, bitorder="little").view("<u4")
    return packed.reshape(*lead, groups * words(per_group)).astype(np.uint32)


def unpack(packed: NDArray[np.uint32], channels: int, groups: int = 1) -> NDArray[np.int8]:
    """Return the ±1 values (..., C) int8 of packed words; the inverse of `pack`."""
    lead, per_group = packed.shape[:-1], channels // groups
    grouped = np.ascontiguousarray(packed, dtype="<u4").reshape(*lead, groups, words(per_group))
    bits = np.unpackbits(grouped.view(np.uint8), axis=-1, bitorder="little")
    signs = 1 - 2 * bits[..., :per_group].astype(np.int8)
    return signs.reshape(*lead, channels)


def pack_weights(signs: NDArray[np.int8]) -> NDArray[np.uint32]:
    """Pack weights (..., C) of -1, 0 and +1 along the last axis.

    Returns
    -------
    (..., ceil(C / 32)) uint32
        Bits of the signs. Where there are zeros, as many words again follow: the mask, whose bits
        are 1 where the weight is not 0.
    """
    bits = pack(signs < 0)
    return np.concatenate([bits, pack(signs != 0)], axis=-1) if (signs == 0).any() else bits


def unpack_weights(packed: NDArray[np.uint32], channels: int) -> NDArray[np.int8]:
    """Return the weights (..., C) int8 of packed words; the inverse of `pack_weights`."""
    count = words(channels)
    signs = unpack(packed[..., :count], channels)
    if not is_masked(packed.shape[-1], channels):
        return signs
    return np.where(unpack(packed[..., count:], channels) < 0, signs, np.int8(0))


def is_masked(count: int, channels: int) -> bool:
    """Whether so many words hold the weights of so many channels and a mask."""
    return count == 2 * words(channels)


def minus_one_words(channels: int) -> list[int]:
    """Return the packed words of one group whose channels are all −1."""
    return [int(word) for word in pack(np.ones(channels, dtype=bool))]


def block_channels(weight: NDArray[np.generic], lanes: int) -> NDArray[np.generic]:
    """Put ``lanes`` output channels beside each other, as one vector load wants them.

    (O, ...) → (ceil(O / lanes), ..., lanes); channels that do not exist are zero.
    """
    channels = weight.shape[0]
    blocks = -(-channels // lanes)
    padded = np.zeros((blocks * lanes, *weight.shape[1:]), dtype=weight.dtype)
    padded[:channels] = weight
    return np.ascontiguousarray(
        np.moveaxis(padded.reshape(blocks, lanes, *weight.shape[1:]), 1, -1)
    )


@dataclass(frozen=True)
class BorderClasses:
    """Classes of output rows (or columns) that see the same part of the padding.

    ``first`` rows leave the input at its start, ``last`` at its end. ``count`` is the number of
    classes; the class of row y is ``min(y, first) + max(y - (size - 1 - last), 0)`` when there
    are fewer classes than rows (``inner``), else y itself.
    """

    size: int
    first: int
    last: int

    @property
    def inner(self) -> bool:
        """Whether some row lies between the borders."""
        return self.first + self.last < self.size

    @property
    def count(self) -> int:
        """How many classes there are."""
        return self.first + 1 + self.last if self.inner else self.size

    def of(self, row: int) -> int:
        """Return the class of an output row."""
        if not self.inner:
            return row
        return min(row, self.first) + max(row - (self.size - 1 - self.last), 0)

    def representative(self, index: int) -> int:
        """Return one output row of a class."""
        if not self.inner or index <= self.first:
            return index
        return self.size - self.count + index


def output_size(size: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> int:
    """Return the output size of a convolution along one axis."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def border_classes(
    size: int, kernel: int, stride: int, before: int, after: int, dilation: int
) -> BorderClasses:
    """Return the border classes of a convolution along one axis of ``size`` inputs."""
    count = output_size(size, kernel, stride, before, after, dilation)
    reach = dilation * (kernel - 1)
    starts = [row * stride - before for row in range(count)]
    first = sum(start < 0 for start in starts)
    last = sum(start + reach > size - 1 for start in starts)
    return BorderClasses(count, first, last)


def border_base(
    signs: NDArray[np.int8],
    size: tuple[int, int],
    *,
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    pad_value: int,
) -> NDArray[np.int32]:
    """Return the constant part of the accumulator: ``acc = base − 2·popcount``.

    Parameters
    ----------
    signs : (O, KH, KW, C / groups) int8
        The weights, ±1, or 0 where they are masked.
    size : (int, int)
        Height and width of the input.
    padding : (top, left, bottom, right)
    pad_value : 0, 1 or -1

    Returns
    -------
    (RC, CC, O) int32
        One row per class of output rows, one column per class of output columns; (1, 1, O)
        filled with K, the number of weights that are not 0, when the padding needs no correction.
    """
    outputs, kernel_h, kernel_w, _ = signs.shape
    total = np.count_nonzero(signs, axis=(1, 2, 3)).astype(np.int32)
    if pad_value != 0 or not any(padding):
        return total.reshape(1, 1, outputs)
    top, left, bottom, right = padding
    rows = border_classes(size[0], kernel_h, strides[0], top, bottom, dilation[0])
    columns = border_classes(size[1], kernel_w, strides[1], left, right, dilation[1])
    sums = signs.astype(np.int64).sum(axis=-1)
    base = np.empty((rows.count, columns.count, outputs), dtype=np.int32)
    for i in range(rows.count):
        y = rows.representative(i) * strides[0] - top + dilation[0] * np.arange(kernel_h)
        row_inside = (y >= 0) & (y < size[0])
        for j in range(columns.count):
            x = columns.representative(j) * strides[1] - left + dilation[1] * np.arange(kernel_w)
            inside = row_inside[:, None] & ((x >= 0) & (x < size[1]))
            base[i, j] = total - (sums * ~inside).sum(axis=(1, 2))
    return base

# SPDX-License-Identifier: Apache-2.0
"""A convolution or dense layer as GPU kernels see it, and its plain tensor expression.

Loop nests for CPUs are made from tensor expressions by a schedule. Kernels for GPUs are templates
that know what they compute from a `Problem`, which the block of the sum carries as an attribute:
weights lie as they are packed, (O, KH, KW, words), and images are not padded. Float layers are the
same with channels in place of words and products in place of differing bits.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from xnortvm._tvm import te, tirx
from xnortvm.ops.layout import (
    BorderClasses,
    border_classes,
    minus_one_words,
    output_size,
    words,
)

#: Attribute of the block of the sum.
PROBLEM = "xnortvm.problem"


@dataclass(frozen=True)
class Problem:
    """What is counted: ``count[n, y, x, o]`` bits that differ between a window and weights.

    Attributes
    ----------
    images, height, width : int
        The input (N, H, W, G · words); a dense layer is a map of 1×1 pixels.
    channels : int
        Input channels of one group.
    outputs, groups : int
        Output channels of all groups.
    kernel, strides, dilation : (int, int)
    padding : (top, left, bottom, right)
    pad_value : int
        0, 1 or −1. Positions outside the image read as bits 0, for −1 as bits 1 of all channels;
        what that adds for 0 is in the table ``base``.
    masked : bool
        Whether the weights are followed by as many words of a mask: a bit counts where it is 1.
    rank : int
        Of the output: 4, or 2 for a dense layer, whose rows are images.
    packed : bool
        False for a float layer.
    """

    images: int
    height: int
    width: int
    channels: int
    outputs: int
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    pad_value: int = 0
    masked: bool = False
    rank: int = 4
    packed: bool = True

    @property
    def words(self) -> int:
        """Elements that hold the channels of one group: words, or floats."""
        return words(self.channels) if self.packed else self.channels

    @property
    def taps(self) -> int:
        """Positions of the kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def steps(self) -> int:
        """Elements of one sum, in the order (KH, KW, words)."""
        return self.taps * self.words

    @property
    def map(self) -> tuple[int, int]:
        """Height and width of the output."""
        top, left, bottom, right = self.padding
        return (
            output_size(
                self.height, self.kernel[0], self.strides[0], top, bottom, self.dilation[0]
            ),
            output_size(self.width, self.kernel[1], self.strides[1], left, right, self.dilation[1]),
        )

    @property
    def pixels(self) -> int:
        """Output pixels of all images: the rows of the matrix product."""
        return self.images * self.map[0] * self.map[1]

    @property
    def border(self) -> tuple[BorderClasses, BorderClasses]:
        """Classes of output rows and columns."""
        top, left, bottom, right = self.padding
        return (
            border_classes(
                self.height, self.kernel[0], self.strides[0], top, bottom, self.dilation[0]
            ),
            border_classes(
                self.width, self.kernel[1], self.strides[1], left, right, self.dilation[1]
            ),
        )

    def padding_word(self, word: Any) -> Any:
        """Return what a position outside the image reads as, for a word of its group."""
        if not self.packed:
            return tirx.const(0, "float32")
        if self.pad_value != -1:
            return tirx.const(0, "uint32")
        ones = minus_one_words(self.channels)
        full, last = (tirx.const(value, "uint32") for value in (ones[0], ones[-1]))
        return full if ones[0] == ones[-1] else tirx.Select(word == len(ones) - 1, last, full)

    def to_json(self) -> str:
        """Return the attribute of a block."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Problem:
        """Read the attribute of a block."""
        values: dict[str, Any] = json.loads(text)
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})


def sum_te(a: Any, w: Any, problem: Problem, op: str) -> Any:
    """Return the tensor expression of the count, int32, or of the float sum.

    Parameters
    ----------
    a : te.Tensor
        (N, H, W, G · words) uint32, or (M, words) of a dense layer; or float32.
    w : te.Tensor
        (O, KH, KW, words) uint32, or (O, words); twice as many words with a mask; or float32.
    op : str
        Block attribute "xnortvm.op".
    """
    made = problem
    kernel_h, kernel_w = made.kernel
    ky, kx, c = (
        te.reduce_axis((0, extent), f"r{i}")
        for i, extent in enumerate((kernel_h, kernel_w, made.words))
    )
    conv = made.rank == 4

    def differing(n: Any, y: Any, x: Any, o: Any) -> Any:
        word = c
        if made.groups > 1:
            word = tirx.floordiv(o, made.outputs // made.groups) * made.words + c
        row = y * made.strides[0] + ky * made.dilation[0] - made.padding[0]
        column = x * made.strides[1] + kx * made.dilation[1] - made.padding[1]
        value = a[n, row, column, word] if conv else a[n, word]
        if any(made.padding):
            inside = tirx.all(row >= 0, row < made.height, column >= 0, column < made.width)
            value = tirx.if_then_else(inside, value, made.padding_word(c))
        at = (o, ky, kx) if conv else (o,)
        if not made.packed:
            return te.sum(value * w[(*at, c)], axis=[ky, kx, c])
        bits = value ^ w[(*at, c)]
        if made.masked:
            bits = bits & w[(*at, made.words + c)]
        return te.sum(tirx.popcount(bits).astype("int32"), axis=[ky, kx, c])

    shape = (made.images, *made.map, made.outputs) if conv else (made.images, made.outputs)

    def element(*index: Any) -> Any:
        return differing(*index) if conv else differing(index[0], 0, 0, index[1])

    marks = {"xnortvm.op": op, "xnortvm.form": "plain", PROBLEM: made.to_json()}
    return te.compute(shape, element, name="count" if made.packed else "sum", attrs=marks)

# SPDX-License-Identifier: Apache-2.0
"""What kernels on tensor cores have in common: a convolution is a product of matrices.

Rows are output pixels of all images, columns are output channels of one group, and K runs over the
taps of the window and the words of a pixel. No matrix of windows lies in memory: a row is where its
window starts (`Row`), and a piece of K is found from there (`Window`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from xnortvm._tvm import tirx
from xnortvm.ops.layout import WORD
from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda import emit as e
from xnortvm.schedules.cuda.epilogue import NotElementwiseError


def ceil(value: int, step: int) -> int:
    """Return the number of steps that cover a value."""
    return -(-value // step)


@dataclass(frozen=True)
class Gemm:
    """The sizes of a `Problem` as a product.

    Attributes
    ----------
    problem : Problem
    piece : int
        Words that one copy moves: 4, 2 or 1, so that none crosses a tap.
    """

    problem: Problem
    piece: int

    @classmethod
    def of(cls, problem: Problem) -> Gemm:
        """Return the product of a problem.

        Raises
        ------
        NotElementwiseError
            When a tensor core does not count such a problem.
        """
        if problem.masked:
            raise NotElementwiseError("weights that are 0 need a mask, which `mma` does not have")
        if problem.groups > 1 and problem.channels % WORD:
            raise NotElementwiseError("channels of a group do not fill words")
        return cls(problem, next(n for n in (4, 2, 1) if problem.words % n == 0))

    @property
    def rows(self) -> int:
        """Output pixels."""
        return self.problem.pixels

    @property
    def columns(self) -> int:
        """Output channels of a group."""
        return self.problem.outputs // self.problem.groups

    @property
    def words(self) -> int:
        """Words of K."""
        return prod(self.problem.kernel) * self.problem.words


def divide(value: Any, by: int) -> tuple[Any, Any]:
    """Return quotient and rest of a number that is not negative, which TVM may not know."""
    return tirx.truncdiv(value, by), tirx.truncmod(value, by)


def pixel_of(problem: Problem, row: Any) -> tuple[Any, Any, Any]:
    """Return image, row and column of an output pixel from its number."""
    height, width = problem.map
    if height * width == 1:
        return row, 0, 0
    image, rest = divide(row, height * width)
    return image, *divide(rest, width)


class Window:
    """Finds pieces of K in the activations.

    A row is where the window of an output pixel starts: the offset of the first word of its first
    tap in the activations, and the input row and column of that tap; all may lie outside.

    Parameters
    ----------
    gemm : Gemm
    group : expression
    count : int
        Rows that a thread keeps in registers.
    """

    def __init__(self, gemm: Gemm, group: Any, count: int) -> None:
        self.gemm, self.group = gemm, group
        self.pitch = gemm.problem.groups * gemm.problem.words
        self.padded = any(gemm.problem.padding)
        self.offset = e.registers("row_offset", count, "int32")
        if self.padded:
            self.y = e.registers("row_y", count, "int32")
            self.x = e.registers("row_x", count, "int32")

    def set_row(self, index: Any, number: Any) -> None:
        """Keep the window of an output pixel, which has to exist."""
        made = self.gemm.problem
        image, y, x = pixel_of(made, number)
        top, left, _, _ = made.padding
        y0, x0 = y * made.strides[0] - top, x * made.strides[1] - left
        pixel = (image * made.height + y0) * made.width + x0
        e.store(self.offset, pixel * self.pitch + self.group * made.words, index)
        if self.padded:
            e.store(self.y, y0, index)
            e.store(self.x, x0, index)

    def step(self, word: Any) -> tuple[Any, Any, Any, Any]:
        """Return what a piece of K adds to a row: offset, rows and columns; and its channel word.

        `word` is the first word of the piece in K.
        """
        made = self.gemm.problem
        if prod(made.kernel) == 1:
            return word, 0, 0, word
        tap, channel = divide(word, made.words)
        channel = e.let("channel", channel)
        y, x = divide(e.let("tap", tap), made.kernel[1])
        dy = e.let("dy", y * made.dilation[0])
        dx = e.let("dx", x * made.dilation[1])
        offset = e.let("step", (dy * made.width + dx) * self.pitch + channel)
        return offset, dy, dx, channel

    def inside(self, index: Any, dy: Any, dx: Any) -> Any:
        """Return whether a tap of a row lies in the image; True where all do."""
        if not self.padded:
            return True
        made = self.gemm.problem
        y, x = e.load(self.y, index) + dy, e.load(self.x, index) + dx
        return tirx.all(y >= 0, y < made.height, x >= 0, x < made.width)

# SPDX-License-Identifier: Apache-2.0
"""The geometry of a convolution or pooling window, and the map sizes that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, ...]
"""Extents of a map: () behind a linear layer, (length,), or (height, width)."""


def expand(value: int | Sequence[int], rank: int, what: str) -> Size:
    """Make one number per axis from one number, or from as many as there are axes.

    Raises
    ------
    ValueError
        If `value` is a sequence of another length than `rank`.
    """
    if isinstance(value, int):
        return (value,) * rank
    if len(value) != rank:
        raise ValueError(f"{what} must be one number or {rank} numbers, got {tuple(value)}")
    return tuple(value)


@dataclass(frozen=True)
class Window:
    """Kernel, stride, padding and dilation per axis, and the number of groups.

    Rank 0 (all tuples empty) stands for a linear layer.
    """

    kernel: Size
    stride: Size
    padding: Size
    dilation: Size
    groups: int = 1

    @classmethod
    def of(
        cls,
        rank: int,
        kernel: int | Sequence[int] = 1,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Window:
        """Make a window of `rank` axes from numbers or sequences, as in torch's convolutions."""
        return cls(
            expand(kernel, rank, "kernel_size"),
            expand(stride, rank, "stride"),
            expand(padding, rank, "padding"),
            expand(dilation, rank, "dilation"),
            groups,
        )

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    def output_size(self, size: Size) -> Size:
        """Give the map size behind the window for a map of `size` in front of it.

        Raises
        ------
        ValueError
            If the window does not fit into the padded map.

        Examples
        --------
        >>> Window.of(2, kernel=3, stride=2, padding=1).output_size((56, 55))
        (28, 28)
        """
        spans = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        padded = [n + 2 * p for n, p in zip(size, self.padding, strict=True)]
        if any(span > extent for span, extent in zip(spans, padded, strict=True)):
            raise ValueError(
                f"a window spanning {text(tuple(spans))} does not fit into a map of {text(size)} "
                f"padded by {text(self.padding)}; use a larger input_size"
            )
        return tuple(
            (n - span) // s + 1 for n, span, s in zip(padded, spans, self.stride, strict=True)
        )


def text(size: Sequence[int]) -> str:
    """Write a map size for people: ``(7, 9)`` is ``7×9``."""
    return "×".join(str(n) for n in size) or "no map"

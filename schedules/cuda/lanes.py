# SPDX-License-Identifier: Apache-2.0
"""Which lane of a warp computes which output channel, and how its results are stored.

Lanes are neighbouring channels: a warp stores 128 bytes of floats side by side, and a word of
packed bits is one ballot. Where the layer that reads the bits has groups that do not fill words,
lanes stand for bits of words instead, and some of them for no channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xnortvm._tvm import tirx
from xnortvm.ops.layout import WORD, words
from xnortvm.schedules.cuda import emit as e
from xnortvm.schedules.cuda.epilogue import NotElementwiseError, Output, indices_in


@dataclass(frozen=True)
class Lanes:
    """Places, of which each is a channel or nothing.

    Attributes
    ----------
    channels : int
        Output channels.
    span : int
        Channels behind which a word is filled up: those of a group of the reader.
    count : int
        Places: whole words where there are packed outputs.
    """

    channels: int
    span: int
    count: int

    def channel(self, place: Any, count: int = 0) -> tuple[Any, Any]:
        """Return the channel of a place, and whether there is one (True: always).

        Parameters
        ----------
        place : expression
        count : int
            How many places a template has: `self.count` or more.
        """
        if self.span == self.channels:
            whole = max(count, self.count) == self.channels
            return place, True if whole else place < self.channels
        width = words(self.span) * WORD
        inside = tirx.floormod(place, width)
        channel = tirx.floordiv(place, width) * self.span + inside
        return channel, tirx.all(inside < self.span, channel < self.channels)


def lanes_of(outputs: Sequence[Output]) -> Lanes:
    """Return the places of a kernel's channels.

    Raises
    ------
    NotElementwiseError
        When packed outputs want them in different orders.
    """
    channels = outputs[0].shape[-1]
    spans = {channels // output.groups for output in outputs if output.packed}
    if not spans:
        return Lanes(channels, channels, channels)
    spans = {span if span % WORD else channels for span in spans}
    if len(spans) > 1:
        raise NotElementwiseError("packed outputs with words of different groups")
    (span,) = spans
    return Lanes(channels, span, channels // span * words(span) * WORD)


def write(
    output: Output,
    acc: Any,
    index: tuple[Any, ...],
    place: Any,
    valid: Any,
    stored: Any = True,
) -> None:
    """Store one element, or the warp's word of bits.

    Parameters
    ----------
    acc : expression
        The sum.
    index : tuple of expression
        Indices of the element.
    place : expression
        The place of its channel; the warp's lowest is a multiple of 32.
    valid : expression or True
        Whether there is such an element. All lanes of a warp have to come here.
    stored : expression or True
        Whether there is such a word, the same for the whole warp.
    """
    element = output.element(acc, index)
    at = indices_in(output.buffer, index)
    if not output.packed:
        with e.when(valid):
            e.store(output.buffer, element, *at)
        return
    word = e.let("word", e.ballot(e.where(valid, element, tirx.const(0, "bool"))))
    with e.when(e.both(tirx.floormod(place, WORD).equal(0), stored)):
        e.store(output.buffer, word, *at[:-1], tirx.floordiv(place, WORD))

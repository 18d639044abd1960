# SPDX-License-Identifier: Apache-2.0
"""Patches: what a window reads of them is the window, and no smaller patch would do."""

from __future__ import annotations

import random

import numpy as np
import pytest

from xnortvm.ops.layout import output_size
from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda.patch import CHUNK, Patch

ROWS = 64


def resnet(channels: int, size: int, stride: int = 1) -> Patch:
    """Return the patch of a 3×3 layer."""
    form = {"kernel": (3, 3), "strides": (stride, stride), "padding": (1, 1, 1, 1)}
    return Patch(Problem(256, size, size, channels, channels, **form), ROWS)


def drawn(seed: int) -> Problem:
    """Return a random convolution that has outputs."""
    draw = random.Random(seed)
    while True:
        form = {
            name: (draw.randint(1, most), draw.randint(1, most))
            for name, most in (("kernel", 4), ("strides", 3), ("dilation", 3))
        }
        size, padding = (
            (draw.randint(1, 12), draw.randint(1, 12)),
            [draw.randint(0, 3) for _ in "tlbr"],
        )
        reach = [(k - 1) * d for k, d in zip(form["kernel"], form["dilation"], strict=True)]
        spans = [size[axis] + padding[axis] + padding[axis + 2] - reach[axis] for axis in range(2)]
        if min(spans) >= 1 and max(form["kernel"]) > 1:
            channels = 32 * draw.choice([1, 2, 3, 4, 5, 6, 8, 12])
            return Problem(3, *size, channels, 32, padding=tuple(padding), **form)


def plane(patch: Patch, number: int) -> np.ndarray:
    """Return the 4 words of each position in a plane: an image, row, column and word; -1 for zeros.

    Computed for unbounded rows, as the kernel does, and not from the words of the windows.
    """
    made = patch.problem
    stream, lane = divmod(number, len(patch.offsets))
    position = np.arange(patch.positions + patch.length)
    image, rest = np.divmod(position, patch.area)
    row, column = np.divmod(rest, patch.width)
    y = row * made.strides[0] - made.padding[0] + patch.streams[stream]
    found = np.full((position.size, CHUNK), -1)
    for piece in range(CHUNK):
        right, word = divmod(patch.offsets[lane] + piece, made.words)
        x = column * made.strides[1] - made.padding[1] + right
        inside = (image < made.images) & (y >= 0) & (y < made.height) & (x >= 0) & (x < made.width)
        number_of = ((image * made.height + y) * made.width + x) * made.words + word
        found[:, piece] = np.where(inside, number_of, -1)
    return found


@pytest.mark.parametrize("seed", range(60))
def test_windows_are_what_the_chunks_hold(seed: int) -> None:
    made = drawn(seed)
    patch = Patch(made, ROWS)
    height, width = made.map
    image, y, x = np.meshgrid(*map(np.arange, (made.images, height, width)), indexing="ij")
    positions = (image * patch.area + y * patch.width + x).reshape(-1)
    words = np.prod(made.kernel) * made.words
    got = np.full((positions.size, words), -2)
    for chunk in patch.chunks:
        held = plane(patch, chunk.plane)[positions + chunk.shift]
        for piece, word in enumerate(chunk.words):
            if word >= 0:
                assert (got[:, word] == -2).all(), "a word is in two chunks"
                got[:, word] = held[:, piece]
    tap, channel = np.divmod(np.arange(words), made.words)
    ky, kx = np.divmod(tap, made.kernel[1])
    row = y.reshape(-1, 1) * made.strides[0] - made.padding[0] + ky * made.dilation[0]
    column = x.reshape(-1, 1) * made.strides[1] - made.padding[1] + kx * made.dilation[1]
    inside = (row >= 0) & (row < made.height) & (column >= 0) & (column < made.width)
    of = ((image.reshape(-1, 1) * made.height + row) * made.width + column) * made.words + channel
    np.testing.assert_array_equal(got, np.where(inside, of, -1))


@pytest.mark.parametrize("seed", range(60))
def test_tables_count_each_word_of_a_window_once(seed: int) -> None:
    patch = Patch(drawn(seed), ROWS)
    counted = sorted(
        (plane, shift, word)
        for table, shift in patch.counts
        for plane, read in patch.tables[table]
        for word in range(CHUNK)
        if read[word]
    )
    held = sorted(
        (chunk.plane, chunk.shift, i)
        for chunk in patch.chunks
        for i, word in enumerate(chunk.words)
        if word >= 0
    )
    assert counted == held
    assert sorted(word for word in patch.order if word >= 0) == list(
        range(np.prod(patch.problem.kernel) * patch.problem.words)
    )


@pytest.mark.parametrize("seed", range(20))
def test_positions_are_no_more_than_padded_images(seed: int) -> None:
    made = drawn(seed)
    patch = Patch(made, ROWS)
    for axis, pitch in enumerate((patch.height, patch.width)):
        size = (made.height, made.width)[axis] + made.padding[axis] + made.padding[axis + 2]
        least = output_size(size, 1, made.strides[axis], 0, 0, 1)
        assert made.map[axis] <= pitch <= max(least, made.map[axis])


STEPS = {
    "32": (resnet(32, 56), 2),
    "64": (resnet(64, 56), 3),
    "64, stride 2": (resnet(64, 56, 2), 3),
    "96": (resnet(96, 28), 5),
    "128": (resnet(128, 28), 5),
    "160": (resnet(160, 28), 6),
    "192": (resnet(192, 28), 8),
    "256": (resnet(256, 14), 9),
    "256, stride 2": (resnet(256, 14, 2), 9),
    "384": (resnet(384, 14), 14),
    "512": (resnet(512, 7), 18),
}


@pytest.mark.parametrize("name", STEPS)
def test_few_steps_are_wasted(name: str) -> None:
    patch, steps = STEPS[name]
    assert patch.steps == steps
    assert steps - -(-9 * patch.problem.channels // 256) in (0, 1)


def test_neighbouring_rows_and_images_share_their_margin() -> None:
    for size, stride, pitch in ((56, 1, 57), (7, 1, 8), (56, 2, 29), (14, 2, 8)):
        assert resnet(64, size, stride).width == resnet(64, size, stride).height == pitch


@pytest.mark.parametrize("name", STEPS)
def test_neighbouring_threads_meet_no_bank_twice(name: str) -> None:
    patch, _ = STEPS[name]
    lanes = len(patch.offsets)
    if patch.unit == CHUNK:
        banks = {(i % lanes * patch.length + i // lanes) % 8 for i in range(8)}
        assert len(banks) == 8

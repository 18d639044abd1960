# SPDX-License-Identifier: Apache-2.0
"""A float convolution on rounded rows: words of two bf16 or four 8-bit numbers.

The image lies channels-last, so a row of the kernel reads KW · C neighbours of a row of the image,
and one word of them is broadcast to all output channels::

    quantise  image → padded rows of 8- or 16-bit numbers
    conv2d    for each row of the kernel and word of it: dot(word, words of the weights)

8 bits: ``x ≈ scale · (q - zero)``, q unsigned, and ``w ≈ w_scale · v`` for each output channel, so
``sum x·w ≈ scale · w_scale · (sum q·v - zero · sum v)``. Padding is the number `zero`, which is an
exact 0. The sums are exact: KH · KW · C · 255 · 127 stays far below 2³¹.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xnortvm._tvm import te, tirx
from xnortvm.ops.channels import blocked_weight, lane_of
from xnortvm.ops.intrinsics_dot import LLVM_BF16, dot, dot_sum, word_of
from xnortvm.ops.layout import output_size

if TYPE_CHECKING:
    from xnortvm.schedules.isa import Isa

Array = NDArray[Any]


@dataclass(frozen=True)
class Format:
    """A number format of image and weights.

    Attributes
    ----------
    count : int
        Numbers in a word.
    dtype, sums : str
        Of the stored image and of the accumulators.
    instruction : str
        See `xnortvm.ops.intrinsics_dot.dot`.
    llvm : str
        Code in LLVM's language that the instruction needs.
    """

    count: int
    dtype: str
    sums: str
    instruction: str
    llvm: str = ""


FORMATS = {
    "bf16": Format(2, "uint16", "float32", "bf16", LLVM_BF16),
    "int8": Format(4, "uint8", "int32", "u8s8"),
}


@dataclass(frozen=True)
class Quantum:
    """The steps of an 8-bit image: ``x ≈ scale · (q - zero)``, 0 ≤ q ≤ 255."""

    scale: float
    zero: int


def quantum_of(image: Array) -> Quantum:
    """Return the steps that just cover 0 and all finite values of an image.

    Examples
    --------
    >>> quantum_of(np.array([-1.0, 1.55], np.float32))
    Quantum(scale=0.009999999776482582, zero=100)
    """
    finite = image[np.isfinite(image)]
    low, high = float(finite.min(initial=0.0)), float(finite.max(initial=0.0))
    scale = float(np.float32((high - low) / 255)) or 1.0
    return Quantum(scale, int(np.rint(-low / scale)))


def quantised_image(x: Array, quantum: Quantum) -> NDArray[np.uint8]:
    """Round an image as the kernel does."""
    steps = np.rint(x * np.float32(1 / quantum.scale)) + np.float32(quantum.zero)
    return np.clip(steps, 0, 255).astype(np.uint8)


def quantised_weight(w: Array) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return the weights (O, ...) in 8 bits, and the scale of every output channel."""
    largest = np.abs(w).max(axis=tuple(range(1, w.ndim)))
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(w / scale.reshape(-1, *[1] * (w.ndim - 1))).astype(np.int8), scale


def bf16_bits(x: Array) -> NDArray[np.uint16]:
    """Return the upper halves of float32, rounded to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return rounded.astype(np.uint16)


def bf16_values(x: Array) -> NDArray[np.float32]:
    """Return float32 numbers rounded to bf16."""
    return (bf16_bits(x).astype(np.uint32) << np.uint32(16)).view(np.float32)


def row_words(weight: Array, name: str, lanes: int) -> NDArray[np.int32]:
    """Return 8- or 16-bit weights (O, KH, KW, C) as words (O / lanes, KH, words, lanes)."""
    count = FORMATS[name].count
    outputs, kernel_h = weight.shape[:2]
    rows = weight.reshape(outputs, kernel_h, -1)
    rows = np.pad(rows, ((0, 0), (0, 0), (0, -rows.shape[2] % count)))
    words = np.ascontiguousarray(rows).view(np.int32)
    return blocked_weight(words, lanes).astype(np.int32)


def _bf16(value: Any) -> Any:
    bits = tirx.reinterpret("uint32", value)
    odd = (bits >> tirx.const(16, "uint32")) & tirx.const(1, "uint32")
    rounded = (bits + tirx.const(0x7FFF, "uint32") + odd) >> tirx.const(16, "uint32")
    number = tirx.Select(value == value, rounded, tirx.const(0x7FC0, "uint32"))
    return number.astype("uint16")


def _uint8(quantum: Quantum) -> Callable[[Any], Any]:
    inverse = tirx.const(float(np.float32(1 / quantum.scale)), "float32")
    zero, most = (tirx.const(float(v), "float32") for v in (quantum.zero, 255))

    def rounded(value: Any) -> Any:
        steps = tirx.nearbyint(value * inverse) + zero
        inside = tirx.min(tirx.max(steps, tirx.const(0.0, "float32")), most)
        return inside.astype("int32").astype("uint8")

    return rounded


def rows_te(
    x: Any,
    w: Any,
    *,
    name: str,
    quantum: Quantum | None,
    outputs: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    channels_last: bool,
    isa: Isa,
) -> Any:
    """Return the accumulators (N, rows, columns, O): float32 for bf16, int32 for int8.

    Parameters
    ----------
    x : te.Tensor
        (N, C, H, W) or (N, H, W, C) float32.
    w : te.Tensor
        `row_words`.
    """
    form = FORMATS[name]
    size = [int(dim) for dim in x.shape]
    if channels_last:
        images, height, width, channels = size
    else:
        images, channels, height, width = size
    top, left, bottom, right = padding
    rows = output_size(height, kernel[0], strides[0], top, bottom, 1)
    columns = output_size(width, kernel[1], strides[1], left, right, 1)
    padded_outputs = int(w.shape[0]) * isa.lanes
    # The last word of the last window may reach beyond the image.
    words = int(w.shape[2])
    needed = -(-((columns - 1) * strides[1] * channels + words * form.count) // channels)
    right = max(right, needed - left - width)
    number = _bf16 if quantum is None else _uint8(quantum)
    zero = tirx.const(0 if quantum is None else quantum.zero, form.dtype)
    image_shape = (images, height + top + bottom, width + left + right, channels)

    def quantise(n: Any, y: Any, i: Any, c: Any) -> Any:
        at = (n, y - top, i - left, c) if channels_last else (n, c, y - top, i - left)
        sides = (top, y >= top), (bottom, y < height + top), (left, i >= left)
        inside = [inner for some, inner in (*sides, (right, i < width + left)) if some]
        return (
            tirx.if_then_else(tirx.all(*inside), number(x[at]), zero) if inside else number(x[at])
        )

    image = te.compute(image_shape, quantise, name="quantise", attrs={"xnortvm.op": "quantise"})
    ky, g = te.reduce_axis((0, kernel[0]), "ky"), te.reduce_axis((0, words), "g")

    def element(n: Any, y: Any, i: Any, o: Any) -> Any:
        block, lane = lane_of(o, isa.lanes)
        first = i * (strides[1] * channels) + g * form.count
        numbers = [
            image[n, y * strides[0] + ky, (first + e) // channels, (first + e) % channels]
            for e in range(form.count)
        ]
        product = dot(word_of(numbers), w[block, ky, g, lane], form.instruction)
        return dot_sum(product, axis=[ky, g])

    result = te.compute(
        (images, rows, columns, padded_outputs),
        element,
        name="conv2d",
        attrs={"xnortvm.op": "conv2d", **({"xnortvm.llvm": form.llvm} if form.llvm else {})},
    )
    if padded_outputs == outputs:
        return result
    return te.compute(
        (images, rows, columns, outputs),
        lambda *index: result(*index),
        name="real_part",
        attrs={"xnortvm.op": "accumulator"},
    )


def scaled_te(sums: Any, base: Any, scale: Any) -> Any:
    """Return ``(sums - base) · scale`` in float32; base and scale per output channel."""
    return te.compute(
        sums.shape,
        lambda *i: (sums(*i) - base(i[-1])).astype("float32") * scale(i[-1]),
        name="scaled",
    )

# SPDX-License-Identifier: Apache-2.0
"""Convolutions of rounded rows: bytes are added exactly, bf16 as float32 adds rounded numbers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import tvm

from tests.ops.kernel_cases import HOST, Case, Conv, build
from xnortvm.ops import reference
from xnortvm.ops.stem_rows import (
    FORMATS,
    Quantum,
    bf16_bits,
    bf16_values,
    quantised_image,
    quantised_weight,
    quantum_of,
    row_words,
    rows_te,
)
from xnortvm.schedules import schedule_function
from xnortvm.schedules.isa import ISAS
from xnortvm.target import resolve

te = tvm.te

#: Tiling → features that its code needs here. The 256-bit tiling has no such instruction and
#: computes the same with plain arithmetic.
TILINGS = {"avx512vpopcntdq": {"avx512bf16", "avx512vnni"}, "avx2": set()}

CONVS = [
    Conv(3, 64, (30, 30), (7, 7), (2, 2), (3, 3, 3, 3)),
    Conv(1, 1, (9, 11), (3, 3), (1, 1), (1, 1, 1, 1)),
    Conv(4, 31, (17, 12), (5, 5), (1, 1), (0, 0, 0, 0)),
    Conv(3, 33, (27, 31), (11, 11), (4, 4), (1, 3, 0, 2), images=3),
    Conv(1, 16, (13, 8), (3, 3), (2, 2), (1, 0, 2, 1)),
    Conv(4, 64, (1, 40), (1, 7), (1, 2), (0, 3, 0, 3)),
    Conv(5, 40, (7, 7), (1, 1), (2, 1), (0, 0, 0, 0)),
]


def case_of(conv: Conv, name: str, lanes_of: str, last: bool) -> Case:
    """Return a convolution of rounded numbers and what it must give."""
    isa = ISAS[lanes_of]
    rng = np.random.default_rng(conv.outputs)
    image = rng.normal(0.3, 1, (conv.images, *conv.size, conv.channels)).astype(np.float32)
    w = rng.standard_normal((conv.outputs, *conv.kernel, conv.channels)).astype(np.float32)
    x = image if last else np.ascontiguousarray(image.transpose(0, 3, 1, 2))
    if name == "int8":
        quantum = quantum_of(image)
        numbers, _ = quantised_weight(w)
        expected = reference.conv2d(
            quantised_image(image, quantum).astype(np.int32),
            numbers.astype(np.int32),
            pad_value=quantum.zero,
            **conv.geometry,
        )
    else:
        quantum, numbers = None, bf16_bits(w)
        expected = reference.conv2d(
            bf16_values(image).astype(np.float64),
            bf16_values(w).astype(np.float64),
            **conv.geometry,
        ).astype(np.float32)
    words = row_words(numbers, name, isa.lanes)
    px, pw = te.placeholder(x.shape, "float32", "x"), te.placeholder(words.shape, "int32", "w")
    result = rows_te(
        px,
        pw,
        name=name,
        quantum=quantum,
        outputs=conv.outputs,
        kernel=conv.kernel,
        strides=conv.strides,
        padding=conv.padding,
        channels_last=last,
        isa=isa,
    )
    func = te.create_prim_func([px, pw, result])
    return Case(f"{conv} {name}", func, [x, words], [expected])


def run(cases: list[Case]) -> list[np.ndarray]:
    library = build(cases, HOST)
    outputs = []
    for i, case in enumerate(cases):
        (expected,) = case.expected
        output = tvm.runtime.tensor(np.zeros(expected.shape, expected.dtype))
        library[f"case{i}"](*[tvm.runtime.tensor(array) for array in case.inputs], output)
        outputs.append(output.numpy())
    return outputs


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("tiling", [*TILINGS, None])
def test_every_shape_adds_what_rounding_leaves(name: str, tiling: str | None) -> None:
    if tiling is not None and not TILINGS[tiling] <= resolve("llvm").features:
        pytest.skip("this machine has no such instructions")
    lanes_of = tiling or "sse2"
    cases = [case_of(conv, name, lanes_of, last=i % 2 == 0) for i, conv in enumerate(CONVS)]
    if tiling is not None:
        for case in cases:
            case.func = partial(schedule_function, isa=ISAS[tiling])(case.func)
            assert case.func.attrs["xnortvm.schedule"] == f"conv2d.{tiling}"
    for case, result in zip(cases, run(cases), strict=True):
        (expected,) = case.expected
        if name == "int8":
            np.testing.assert_array_equal(result, expected, err_msg=case.name)
        else:
            error = np.abs(result - expected).max() / np.abs(expected).max()
            assert error < 1e-6, case.name


def test_a_byte_image_covers_its_range_and_zero_is_exact() -> None:
    image = np.linspace(-0.7, 2.9, 1000).astype(np.float32)
    quantum = quantum_of(image)
    numbers = quantised_image(image, quantum)
    assert (numbers.min(), numbers.max()) == (0, 255)
    assert quantised_image(np.zeros(1, np.float32), quantum)[0] == quantum.zero
    back = quantum.scale * (numbers.astype(np.float32) - quantum.zero)
    assert np.abs(back - image).max() <= 0.51 * quantum.scale


def test_an_image_beyond_the_range_is_clipped() -> None:
    numbers = quantised_image(np.array([-9, 9, np.inf], np.float32), Quantum(0.01, 100))
    np.testing.assert_array_equal(numbers, [0, 255, 255])


def test_a_positive_image_starts_at_zero() -> None:
    assert quantum_of(np.array([0.5, 1.0], np.float32)).zero == 0
    assert quantum_of(np.zeros(3, np.float32)).scale > 0
    assert quantum_of(np.array([0.5, np.inf, np.nan, 1.0], np.float32)).scale < 0.01


def test_bf16_rounds_to_nearest_even() -> None:
    numbers = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-9), 3e38, 0.0], np.float32)
    expected = np.array([1.0, 1.0, 1 + 2**-6, -1.0, 3e38, 0.0], np.float32)
    np.testing.assert_allclose(bf16_values(numbers), expected, rtol=2**-8)
    np.testing.assert_array_equal(bf16_values(numbers)[:4], expected[:4])

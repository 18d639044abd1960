# SPDX-License-Identifier: Apache-2.0
"""Packing is reversible, and the border table makes zero padding exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from xnortvm import ops
from xnortvm.ops import reference
from xnortvm.ops.channels import blocked_weight, padded_vectors
from xnortvm.ops.dot import split_reduction
from xnortvm.ops.dot_form import MAX_LOOKUPS, NIBBLE, Form
from xnortvm.ops.dot_weights import kernel_weights
from xnortvm.ops.intrinsics import MAX_BYTE_WORDS

bits = npst.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 100)))


@given(bits)
def test_unpack_inverts_pack(negative: np.ndarray) -> None:
    packed = ops.pack(negative)
    assert packed.shape == (negative.shape[0], ops.words(negative.shape[1]))
    assert packed.dtype == np.uint32
    np.testing.assert_array_equal(ops.unpack(packed, negative.shape[1]) < 0, negative)


@given(st.integers(1, 5), st.integers(1, 40), st.randoms(use_true_random=False))
def test_groups_start_new_words(groups: int, per_group: int, draw: object) -> None:
    rng = np.random.default_rng(groups * 100 + per_group)
    negative = rng.random((2, groups * per_group)) < 0.5
    packed = ops.pack(negative, groups)
    apart = [ops.pack(part) for part in np.split(negative, groups, axis=1)]
    np.testing.assert_array_equal(packed, np.concatenate(apart, axis=1))
    np.testing.assert_array_equal(ops.unpack(packed, groups * per_group, groups) < 0, negative)


@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_dot_product_is_length_minus_twice_the_differing_bits(length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, w = rng.choice([-1, 1], (2, length))
    differing = int(np.bitwise_count(ops.pack(a < 0) ^ ops.pack(w < 0)).sum())
    assert length - 2 * differing == int(a @ w)


def test_lowest_bit_is_the_first_channel() -> None:
    negative = np.zeros(40, dtype=bool)
    negative[[0, 33]] = True
    np.testing.assert_array_equal(ops.pack(negative), np.array([1, 2], dtype=np.uint32))


@pytest.mark.parametrize("outputs", [1, 7, 8, 9, 64, 65, 300, 1000])
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_blocked_weights_keep_every_channel(outputs: int, lanes: int) -> None:
    weight = np.arange(1, outputs * 3 + 1).reshape(outputs, 3)
    blocked = blocked_weight(weight, lanes)
    assert blocked.shape == (padded_vectors(outputs, lanes), 3, lanes)
    flat = np.moveaxis(blocked, -1, 1).reshape(-1, 3)
    np.testing.assert_array_equal(flat[:outputs], weight)
    assert not flat[outputs:].any()


@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=3),
    st.sampled_from([MAX_BYTE_WORDS, MAX_LOOKUPS]),
)
def test_chunks_cover_the_reduction_and_fit_a_byte(extents: list[int], limit: int) -> None:
    split = split_reduction(extents, limit)
    assert [chunks * steps for chunks, steps in split] == extents
    assert np.prod([steps for _, steps in split]) <= limit


@pytest.mark.parametrize("lanes", [16, 32, 64])
def test_table_rows_hold_the_popcounts_of_four_bits(lanes: int) -> None:
    """Looked up as vpshufb does, within 16 bytes, they add up to the differing bits."""
    rng = np.random.default_rng(lanes)
    a, w = rng.random(37) < 0.5, rng.random((lanes, 37)) < 0.5
    form = Form("table", lanes, NIBBLE, MAX_LOOKUPS)
    weights, table = kernel_weights(ops.pack(w), 37, form)
    assert weights.shape == (1, 10, lanes)
    assert weights.dtype == table.dtype == np.uint8
    codes = np.packbits(np.resize(a, 40) & (np.arange(40) < 37), bitorder="little")
    nibbles = np.stack([codes & 15, codes >> 4], axis=-1).reshape(-1)
    rows = table.reshape(16, lanes)[nibbles]
    looked_up = np.take_along_axis(rows, weights[0] + np.arange(lanes) // 16 * 16, axis=-1)
    np.testing.assert_array_equal(looked_up.sum(axis=0), (a ^ w).sum(axis=1))


geometry = st.fixed_dictionaries(
    {
        "size": st.tuples(st.integers(1, 9), st.integers(1, 9)),
        "kernel": st.tuples(st.integers(1, 5), st.integers(1, 5)),
        "strides": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "padding": st.tuples(*[st.integers(0, 4)] * 4),
        "dilation": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    }
)


@settings(max_examples=150, deadline=None)
@given(geometry, st.integers(0, 1000))
def test_border_table_turns_bits_of_zero_into_zero_padding(geo: dict, seed: int) -> None:
    size, kernel = geo.pop("size"), geo.pop("kernel")
    top, left, bottom, right = geo["padding"]
    rows = ops.border_classes(
        size[0], kernel[0], geo["strides"][0], top, bottom, geo["dilation"][0]
    )
    columns = ops.border_classes(
        size[1], kernel[1], geo["strides"][1], left, right, geo["dilation"][1]
    )
    if rows.size < 1 or columns.size < 1:
        return
    rng = np.random.default_rng(seed)
    x = rng.choice(np.array([-1, 1]), (1, *size, 3))
    signs = rng.choice(np.array([-1, 1], np.int8), (2, *kernel, 3))
    base = ops.border_base(signs, size, **geo, pad_value=0)
    plus = reference.conv2d(x, signs.astype(x.dtype), **geo, pad_value=1)
    total = signs[0].size
    fixed = np.empty_like(plus)
    for y in range(rows.size):
        for i in range(columns.size):
            entry = base[0, 0]
            if any(geo["padding"]):
                entry = base[rows.of(y), columns.of(i)]
            fixed[:, y, i] = plus[:, y, i] - total + entry
    np.testing.assert_array_equal(fixed, reference.conv2d(x, signs.astype(x.dtype), **geo))


def test_border_table_of_an_ordinary_layer_has_nine_entries() -> None:
    signs = np.ones((4, 3, 3, 8), np.int8)
    base = ops.border_base(
        signs, (56, 56), strides=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1), pad_value=0
    )
    assert base.shape == (3, 3, 4)
    assert base[1, 1, 0] == 72
    assert base[0, 0, 0] == 72 - 5 * 8

# SPDX-License-Identifier: Apache-2.0
"""Tiles fill the register file, divide the map, and stay on the stack."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from xnortvm.schedules.isa import ISAS
from xnortvm.schedules.tiling import COSTS, STACK_BYTES, choose_tile, computed_columns

sizes = st.integers(1, 60)


@given(
    sizes,
    sizes,
    st.sampled_from(sorted(ISAS)),
    st.sampled_from(sorted(COSTS)),
    st.lists(st.integers(1, 8), min_size=1, max_size=4),
)
def test_a_tile_divides_the_map_and_fits(
    rows: int, columns: int, name: str, form: str, blocks: list[int]
) -> None:
    isa = ISAS[name]
    assume(isa.pairwise or form not in ("pairwise", "paired"))
    blocks = [1, *(block for block in blocks if block * isa.lanes <= 64)]
    registers = isa.registers(form)
    columns *= COSTS[form].columns
    tile, block = choose_tile(rows, columns, blocks, isa.lanes, registers, form)
    assert tile.columns % COSTS[form].columns == 0
    assert rows % tile.rows == columns % tile.columns == block % tile.vectors == 0
    assert tile.accumulators <= registers
    assert tile.pixels * block * isa.lanes * COSTS[form].bytes < STACK_BYTES


@pytest.mark.parametrize("size", [56, 28, 14, 7, 13, 17])
@pytest.mark.parametrize("name", ["avx2", "avx512vpopcntdq", "neon"])
def test_packed_maps_of_any_width_keep_several_accumulators(size: int, name: str) -> None:
    isa = ISAS[name]
    form, vectors = isa.popcount, 32 // isa.lanes
    tile, _ = choose_tile(size, size, [vectors], isa.lanes, isa.packed_registers, form)
    assert tile.accumulators >= min(4, vectors)


def test_float_tiles_hide_the_latency_of_fma() -> None:
    isa = ISAS["avx2"]
    for size in (112, 56, 28, 16, 8):
        tile, _ = choose_tile(size, size, [2, 4], isa.lanes, isa.float_registers, "float")
        assert tile.accumulators >= COSTS["float"].chains


@pytest.mark.parametrize(("form", "name"), [("word", "avx512vpopcntdq"), ("table", "avx2")])
def test_only_maps_that_no_good_tile_divides_are_computed_wider(form: str, name: str) -> None:
    isa = ISAS[name]
    lanes = isa.lanes if form == "word" else isa.vector_bits // 8
    wider = {
        size: computed_columns(size, size, 64, lanes, isa, form)
        for size in (1, 8, 13, 14, 16, 17, 28, 32, 56)
    }
    assert wider.pop(13) > 13
    assert wider.pop(17) > 17
    assert all(size == columns for size, columns in wider.items())

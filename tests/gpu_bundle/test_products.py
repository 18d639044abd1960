# SPDX-License-Identifier: Apache-2.0
"""The table of modelled tiles says which one the rule takes, and what bounds it."""

from __future__ import annotations

import pytest

from xnortvm.schedules.cuda.wgmma_tile import tile_for
from xnortvm.tools.gpu_bundle.products import PRODUCTS, TILES, Product, main, render


def rows_of(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines()[4:]]


@pytest.mark.parametrize("product", PRODUCTS, ids=str)
def test_the_fastest_row_is_the_tile_of_the_rule(product: Product) -> None:
    rows = rows_of(render(product))
    assert len(rows) == len(product.tiles) == len(TILES)
    best = min(rows, key=lambda row: float(row[4]))
    assert int(best[0]) == tile_for(product.gemm).columns
    for row in rows:
        assert float(row[4]) >= max(map(float, row[6:]))
        seconds = 2 * product.macs / (float(row[5]) * 1e15)
        assert seconds * 1e6 == pytest.approx(float(row[4]), rel=0.05)


def test_other_sizes_may_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["8192", "8192", "8192"]) == 0
    said = capsys.readouterr().out
    assert {row[0] for row in rows_of(said)} == {"128", "64"}  # more have no room
    for sizes in (["1", "2"], ["0", "1", "1"]):
        with pytest.raises(SystemExit):
            main(sizes)
        assert "name three sizes" in capsys.readouterr().err

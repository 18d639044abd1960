# SPDX-License-Identifier: Apache-2.0
"""Every cell of docs/coverage.md is what the compiler does today."""

from __future__ import annotations

import pytest

from tests.coverage.cells import WAYS, cells
from tests.coverage.page import PAGE, parse, render
from tests.coverage.sections import SECTIONS

COMMITTED = parse(PAGE.read_text())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SECTIONS)
def test_cells_are_what_the_compiler_does(name: str, way: str) -> None:
    found = {row.replace("_", " "): cell for row, cell in cells(SECTIONS[name], way).items()}
    differing = {row: (cell, COMMITTED[name][way][row]) for row, cell in found.items()}
    assert {row: pair for row, pair in differing.items() if pair[0] != pair[1]} == {}
    assert set(found) == set(COMMITTED[name][way])


def test_no_cell_is_wrong() -> None:
    text = PAGE.read_text()
    assert "WRONG" not in text
    assert "no layer found" not in text


def test_the_page_is_what_the_command_writes() -> None:
    assert render(COMMITTED) == PAGE.read_text()

# SPDX-License-Identifier: Apache-2.0
"""What a sub-command hands back, and tables of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """The result of a sub-command.

    Attributes
    ----------
    text : str
        For people.
    data : dict or list
        The same for programs, as JSON.
    status : int
        Exit status.
    """

    text: str
    data: Any
    status: int = 0


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out rows under a heading; columns of numbers are aligned to the right.

    Examples
    --------
    >>> print(table(["name", "ms"], [["a", 1.5], ["bb", 10.25]]))
    name      ms
    ----  ------
    a      1.500
    bb    10.250
    """
    cells = [[_cell(value) for value in row] for row in rows]
    lines = [list(head), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    numeric = [
        bool(rows) and all(row[column] is None or _is_number(row[column]) for row in rows)
        for column in range(len(head))
    ]
    text = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    ]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)

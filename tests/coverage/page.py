# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.coverage.page``: writes docs/coverage.md, every cell found by compiling."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.coverage.cells import WAYS, cells
from tests.coverage.sections import SECTIONS

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"

_HEAD = """\
# What is binary

Each cell is a small network that was imported, lowered and compared with PyTorch eager: outputs by
the float bound, zeros included, and how many of its layers are binary. `make coverage` writes this
page; `tests/coverage` compares every cell with it.

**binary**: every layer that should be. **2 bits**: `torch.sign(0) = 0` happens on purpose in this
network and is kept exactly. Whatever else is in a cell is the compiler's or the exporter's own
reason, in the notes below each table. Columns: a module given to `xnortvm.compile`; programs of
`torch.export` with `strict=True` and after `run_decompositions()`; ONNX files of both exporters
(opset 20 and 17); a Relax module from TVM's own importer.
"""


def render(results: dict[str, dict[str, dict[str, str]]]) -> str:
    """Return the page from {section: {way: {row: cell}}}."""
    return "\n".join([_HEAD, *(_section(name, results[name]) for name in SECTIONS)])


def _section(name: str, columns: dict[str, dict[str, str]]) -> str:
    section = SECTIONS[name]
    titles = [title for title, _, _ in WAYS.values()]
    notes: dict[str, int] = {}
    lines = [f"## {section.title}", "", section.text, ""]
    lines += [_line(["", *titles]), _line(["---"] * (len(titles) + 1))]
    rows = next(iter(columns.values()))
    for row in rows:
        lines.append(
            _line([row.replace("_", " "), *(_cell(columns[way][row], notes) for way in WAYS)])
        )
    lines += [""] + [f"{number}. {note}" for note, number in notes.items()] + [""] * bool(notes)
    return "\n".join(lines)


def _cell(result: str, notes: dict[str, int]) -> str:
    """The verdict; its reason goes to the notes."""
    verdict, _, reason = result.partition(": ")
    if not reason:
        return verdict
    return f"{verdict} ({notes.setdefault(reason, len(notes) + 1)})"


def _line(parts: list[str]) -> str:
    return f"| {' | '.join(parts)} |"


def parse(text: str) -> dict[str, dict[str, dict[str, str]]]:
    """Return {section: {way: {row: cell}}} from a page, as `render` got it."""
    titles = {section.title: name for name, section in SECTIONS.items()}
    results: dict[str, dict[str, dict[str, str]]] = {}
    for part in text.split("\n## ")[1:]:
        title, *lines = part.splitlines()
        notes = dict(line.split(". ", 1) for line in lines if line.partition(". ")[0].isdigit())
        columns = results[titles[title]] = {way: {} for way in WAYS}
        for line in [line for line in lines if line.startswith("| ")][2:]:
            row, *found = [part.strip() for part in line.strip("|").split(" | ")]
            for way, cell in zip(WAYS, found, strict=True):
                verdict, _, number = cell.rstrip(")").partition(" (")
                columns[way][row] = f"{verdict}: {notes[number]}" if number else verdict
    return results


def main() -> int:
    """Compile everything and write the page."""
    results: dict[str, dict[str, dict[str, str]]] = {}
    for name, section in SECTIONS.items():
        results[name] = {}
        for way in WAYS:
            print(f"{name}, {way}", flush=True)
            results[name][way] = cells(section, way)
    PAGE.write_text(render(results))
    wrong = [c for s in results.values() for w in s.values() for c in w.values() if "WRONG" in c]
    print(f"{PAGE}: {sum(len(w) for s in results.values() for w in s.values())} cells")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

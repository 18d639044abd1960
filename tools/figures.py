# SPDX-License-Identifier: Apache-2.0
"""Measure the figures of the documentation and write them where they stand.

    python -m xnortvm.tools.figures [NAME ...]

A figure stands between two comments, ``<!-- figures: NAME -->`` and ``<!-- end -->``. Each is a
table made by one command, with that command, the date and the machine below it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xnortvm.errors import ModelError
from xnortvm.tools import cli

ROOT = Path(__file__).resolve().parent.parent


class Figure(NamedTuple):
    """One measured table.

    Attributes
    ----------
    files : tuple of str
        Where it stands, relative to the repository.
    command : tuple of str
        Arguments of ``xnortvm`` that measure it.
    render : callable
        From the command's JSON to the lines of a Markdown table.
    """

    files: tuple[str, ...]
    command: tuple[str, ...]
    render: Callable[[Any], list[str]]


def _engines(data: Any) -> list[str]:
    lines = ["| engine, one thread | median ms | fastest ms | time |", "|---|--:|--:|--:|"]
    lines += [
        f"| {name} | {each['median_ms']:.2f} | {each['min_ms']:.2f} | {each['times_slower']:.1f}× |"
        for name, each in data["engines"].items()
    ]
    return lines


def _layers(rows: Any) -> list[str]:
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = map(_cell, row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


FIGURES: dict[str, Figure] = {
    "resnet18": Figure(
        ("README.md",),
        ("bench", "resnet18", "--scale", "channel-height-width", "--against", "torch,onnxruntime"),
        _engines,
    ),
    "layers": Figure(("docs/performance.md",), ("bench", "--layers"), _layers),
}


def measure(command: Sequence[str]) -> Any:
    """Run an ``xnortvm`` command and return what it prints as JSON."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = cli.main([*command, "--json"])
    if status != 0:
        raise ModelError(f"xnortvm {' '.join(command)} failed, the figure stays as it was")
    return json.loads(printed.getvalue())


def machine() -> str:
    """Describe this machine: processor, the instruction set that is used, cores."""
    from xnortvm.target import resolve
    from xnortvm.tools.machine import cpu_name

    here = resolve("llvm")
    return f"{cpu_name()} ({here.mcpu}, {here.isa}), {os.cpu_count()} cores"


def write(name: str, root: Path = ROOT) -> None:
    """Measure one figure and replace it in every file where it stands.

    Raises
    ------
    ModelError
        When a file has no place for it; no file is changed then.
    """
    figure = FIGURES[name]
    place = re.compile(rf"(<!-- figures: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    texts = {root / file: (root / file).read_text() for file in figure.files}
    for path, text in texts.items():
        if not place.search(text):
            raise ModelError(f"{path.name} has no place marked <!-- figures: {name} -->")
    lines = figure.render(measure(figure.command))
    lines += [
        "",
        f"`xnortvm {' '.join(figure.command)}`, {dt.date.today().isoformat()}, {machine()}.",
    ]
    block = "\n".join(lines) + "\n"
    for path, text in texts.items():
        _replace(path, place.sub(lambda match: match[1] + block + match[2], text))


def _replace(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    os.chmod(file.name, path.stat().st_mode)
    os.replace(file.name, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the figures that are named, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m xnortvm.tools.figures", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*FIGURES, []], metavar="NAME")
    for name in parser.parse_args(argv).names or FIGURES:
        print(f"measuring {name} …", file=sys.stderr)
        write(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())

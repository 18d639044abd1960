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
import hashlib
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
from xnortvm.tools import figure_tables as tables

ROOT = Path(__file__).resolve().parent.parent


class Figure(NamedTuple):
    """One measured table.

    Attributes
    ----------
    files : tuple of str
        Where it stands, relative to the repository.
    commands : tuple of tuple of str
        Arguments of ``xnortvm`` that measure it.
    render : callable
        From the JSON of every command to the lines of a Markdown table.
    where : callable
        Says on what it was measured; by default, this machine.
    """

    files: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    render: Callable[[list[Any]], list[str]]
    where: Callable[[], str] = lambda: machine()


_PERFORMANCE = ("docs/performance.md",)
_PEERS = "openvino,onnxruntime-int8,onnxruntime,torch"
_README = ("bench", "resnet18", "--scale", "channel-height-width")
_AVX2 = ("--target", "llvm -mcpu=haswell")


def _network(*model: str, few: str = "openvino", stems: tuple[str, ...] = ()) -> Figure:
    """Return the table of a network; batches and threads are compared with the peers `few`."""
    alone = ((), *(("--stem", stem) for stem in stems))
    several = (("--batch", "8"), ("--num-threads", "2"))
    rows = [((*isa, *each), _PEERS) for isa in ((), _AVX2) for each in alone]
    rows += [((*isa, *each), few) for each in several for isa in ((), _AVX2)]
    commands = tuple(("bench", *model, *each, "--against", peers) for each, peers in rows)
    return Figure(_PERFORMANCE, commands, tables.networks)


def emulator() -> str:
    """Name the programs that modelled figures depend on."""
    from xnortvm.emulation import needs

    return f"{needs.qemu_version()}, llvm-mca {needs.find_models().version}"


_ARM = ("docs/arm.md",)
_CORES = ("--model-cost", "cortex-a72,cortex-a53,neoverse-n1")
_ARM_LAYERS = ("bench", "--layers", "--model-cost", "cortex-a72,cortex-a53,cortex-a55,neoverse-n1")

FIGURES: dict[str, Figure] = {
    "resnet18": Figure(
        ("README.md",),
        tuple((*_README, "--against", _PEERS, *stem) for stem in ((), ("--stem", "winograd"))),
        tables.engines,
    ),
    "machine": Figure(_PERFORMANCE, (("bench", "--machine"),), tables.limits),
    "layers": Figure(
        _PERFORMANCE, (("bench", "--layers", "--plot", "docs/roofline-layers.svg"),), tables.layers
    ),
    "layers-avx2": Figure(_PERFORMANCE, (("bench", "--layers", *_AVX2),), tables.layers),
    "resnet18-layers": Figure(
        _PERFORMANCE,
        (("bench", "resnet18-plain", "--layers", "--plot", "docs/roofline-resnet18.svg"),),
        tables.layers,
    ),
    "resnet18-plain": _network("resnet18-plain", few=_PEERS, stems=("winograd",)),
    "resnet18-case4": _network("resnet18"),
    "resnet18-bireal": _network("resnet18-bireal"),
    "quicknet": _network("quicknet"),
    "alexnet": _network("alexnet"),
    "resnet18-cifar": _network("resnet18-cifar"),
    "arm-layers": Figure(_ARM, (_ARM_LAYERS,), tables.arm_layers, emulator),
    "arm-float": Figure(_ARM, (_ARM_LAYERS,), tables.arm_float, emulator),
    "arm-networks": Figure(
        _ARM,
        tuple(("bench", name, *_CORES) for name in ("resnet18-bireal", "resnet18")),
        tables.arm_networks,
        emulator,
    ),
    "arm-tuned": Figure(
        ("docs/tuning.md",),
        tuple(
            ("records", "best", f"schedules/records/{core}.jsonl")
            for core in ("cortex-a72", "cortex-a53", "cortex-a76")
        ),
        tables.arm_tuned,
        emulator,
    ),
    "arm-kernels": Figure(
        _ARM,
        (("bench", "resnet18-bireal", "--model-cost", "cortex-a72"),),
        tables.arm_kernels,
        emulator,
    ),
}


def measure(command: Sequence[str], keep: Path | None = None) -> Any:
    """Run an ``xnortvm`` command and return what it prints as JSON.

    Parameters
    ----------
    command : sequence of str
        Arguments of ``xnortvm``.
    keep : Path, optional
        Folder of results: one that was measured today is taken from there, others are put there.
    """
    kept = keep / f"{_key(command)}.json" if keep else None
    if kept is not None and kept.exists():
        return json.loads(kept.read_text())
    data = _run(command)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(data))
    return data


def _key(command: Sequence[str]) -> str:
    return hashlib.sha256("\n".join([dt.date.today().isoformat(), *command]).encode()).hexdigest()[
        :16
    ]


def _run(command: Sequence[str]) -> Any:
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


def _caption(commands: Sequence[Sequence[str]]) -> str:
    """Write what all commands share, and what the rows have besides."""
    split = [_options(command) for command in commands]
    if len({parts[0] for parts in split}) > 1:  # nothing that one could start from
        return ", ".join(f"`xnortvm {' '.join(parts)}`" for parts in split)
    shared = [part for part in split[0] if all(part in parts for parts in split)]
    extras = [" ".join(part for part in parts if part not in shared) for parts in split]
    besides = [f"`{extra}`" for extra in extras if extra]
    return f"`xnortvm {' '.join(shared)}`" + (f", and {', '.join(besides)}" if besides else "")


def _options(command: Sequence[str]) -> list[str]:
    """Quote for a shell; an option and its value are one part."""
    quoted = " ".join(f'"{part}"' if " " in part else part for part in command)
    return re.split(r" (?=--)", quoted)


def write(name: str, root: Path = ROOT, keep: Path | None = None) -> None:
    """Measure one figure and replace it in every file where it stands.

    Raises
    ------
    ModelError
        When a file has no place for it; no file is changed then.
    """
    figure = FIGURES[name]
    texts = places(name, figure.files, root)
    lines = figure.render([measure(command, keep) for command in figure.commands])
    lines += ["", f"{_caption(figure.commands)}, {dt.date.today().isoformat()}, {figure.where()}."]
    put(lines, texts)


def places(name: str, files: Sequence[str], root: Path = ROOT) -> dict[Path, tuple[str, str]]:
    """Return what stands before and behind a figure in every file.

    Raises
    ------
    ModelError
        When a file has no place for it.
    """
    place = re.compile(rf"<!-- figures: {name} -->\n()(?:.*?)()<!-- end -->", re.DOTALL)
    found = {}
    for path in (root / file for file in files):
        text = path.read_text()
        match = place.search(text)
        if match is None:
            raise ModelError(f"{path.name} has no place marked <!-- figures: {name} -->")
        found[path] = text[: match.start(1)], text[match.start(2) :]
    return found


def put(lines: Sequence[str], texts: dict[Path, tuple[str, str]]) -> None:
    """Write the lines of a figure into its places."""
    for path, (before, behind) in texts.items():
        _replace(path, before + "\n".join(lines) + "\n" + behind)


def _replace(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    os.chmod(file.name, path.stat().st_mode)
    os.replace(file.name, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the figures that are named, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m xnortvm.tools.figures", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*FIGURES, []], metavar="NAME")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="keep the result of every command there, and use those of today again",
    )
    parser.add_argument(
        "--row", type=int, metavar="N", help="with --keep: only run the Nth command of a table"
    )
    args = parser.parse_args(argv)
    for name in args.names or FIGURES:
        print(f"measuring {name} …", file=sys.stderr)
        if args.row is None:
            write(name, keep=args.keep)
        elif args.row < len(FIGURES[name].commands):
            measure(FIGURES[name].commands[args.row], args.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())

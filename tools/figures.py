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


def _engines(found: list[Any]) -> list[str]:
    """Ours with every stem, then the peers as they ran beside the first."""
    first, *_ = found
    rows = {_ours(data): data["engines"]["xnortvm"] for data in reversed(found)}
    rows |= {name: each for name, each in first["engines"].items() if name != "xnortvm"}
    exact = first["engines"]["xnortvm"]["median_ms"]
    lines = ["| engine, one thread | median ms | fastest ms | time |", "|---|--:|--:|--:|"]
    lines += [
        f"| {name} | {each['median_ms']:.2f} | {each['min_ms']:.2f} "
        f"| {each['median_ms'] / exact:.2f}× |"
        for name, each in rows.items()
    ]
    return lines


def _ours(data: Any) -> str:
    return "xnortvm" if data["stem"] == "exact" else f'xnortvm, stem="{data["stem"]}"'


def _layers(found: list[Any]) -> list[str]:
    """One row per kernel; binary and float speeds share a column and say their unit."""
    (rows,) = found
    lines = ["| layer | µs | speed | GB/s | share | bound by |", "|---|--:|--:|--:|--:|---|"]
    for row in rows:
        speed = ""
        for unit in ("TBMAC/s", "GMAC/s"):
            if row[unit] is not None:
                speed = f"{row[unit]:.3g} {unit}"
        lines.append(
            f"| {row['layer']} | {row['microseconds']:.1f} | {speed} | {row['GB/s']:.1f} "
            f"| {100 * row['share']:.0f} % | {row['bound']} |"
        )
    return lines


def _limits(found: list[Any]) -> list[str]:
    """One row per instruction set, one column per step, in 10^12 multiply-accumulates a second."""
    (machine,) = found
    steps = list(dict.fromkeys(step for each in machine["macs"].values() for step in each))
    lines = ["| TMAC/s | " + " | ".join(steps) + " |", "|---|" + "--:|" * len(steps)]
    for isa, rates in machine["macs"].items():
        cells = (f"{rates[step] * 1e-12:.3f}" if step in rates else "" for step in steps)
        lines.append(f"| {isa} | " + " | ".join(cells) + " |")
    rest = [
        f"{name} dot products {rate * 1e-12:.3f} TMAC/s" for name, rate in machine["dots"].items()
    ]
    rest += [f"{level} {rate * 1e-9:.0f} GB/s" for level, rate in machine["read"].items()]
    return [*lines, "", f"At {machine['hertz'] * 1e-9:.2f} GHz; {', '.join(rest)}."]


def _networks(found: list[Any]) -> list[str]:
    """One row per configuration, one column per engine: milliseconds, and times ours."""
    engines = list(dict.fromkeys(name for data in found for name in data["engines"]))
    lines = ["| median ms | " + " | ".join(engines) + " |", "|---|" + "--:|" * len(engines)]
    for data in found:
        cells = []
        for name in engines:
            each = data["engines"].get(name)
            ratio = "" if name == "xnortvm" or not each else f" ({each['times_slower']:.2f}×)"
            cells.append(f"{each['median_ms']:.2f}{ratio}" if each else "–")
        threads = "1 thread" if data["num_threads"] == 1 else f"{data['num_threads']} threads"
        stem = "" if data["stem"] == "exact" else f", {data['stem']} stem"
        lines.append(
            f"| batch {data['batch']}, {data['isa']}, {threads}{stem} | " + " | ".join(cells) + " |"
        )
    return lines


def _arm_layers(found: list[Any]) -> list[str]:
    """One row per binary layer, one column per core: modelled cycles for 128 MACs."""
    return _by_core(found, "cycles for 128 binary MACs", "binary", "bound", "cycles_per_step")


def _arm_float(found: list[Any]) -> list[str]:
    """One row per float layer, one column per core: modelled cycles for a MAC."""
    return _by_core(found, "cycles for a float MAC", "float", "float_bound", "cycles_per_mac")


def _by_core(found: list[Any], title: str, kind: str, bound: str, figure: str) -> list[str]:
    (cores,) = (data["cores"] for data in found)
    digits = {"bound": 1, "float_bound": 3}[bound]
    least = " | ".join(f"{core[bound]:.{digits}f}" for core in cores.values())
    lines = [
        f"| {title} | " + " | ".join(cores) + " |",
        "|---|" + "--:|" * len(cores),
        f"| at least | {least} |",
    ]
    for rows in zip(*(core["rows"] for core in cores.values()), strict=True):
        if rows[0]["kind"] == kind:
            cells = " | ".join(f"{row[figure]:.{max(digits, 2)}f}" for row in rows)
            lines.append(f"| {rows[0]['layer'].removeprefix('float ')} | {cells} |")
    return lines


def _arm_networks(found: list[Any]) -> list[str]:
    """One row per network and core: the sum over all kernels and the share of each kind."""
    figures = "instructions | cycles | binary | float | other | spills | ms | waiting"
    lines = [f"| network | core | {figures} |", "|---|---|" + "--:|" * 8]
    for data in found:
        for name, core in data["cores"].items():
            total = core["total"]
            shares = " | ".join(f"{100 * share:.1f} %" for share in core["shares"].values())
            millions = " | ".join(f"{total[key] / 1e6:.1f} M" for key in ("instructions", "cycles"))
            times = f"{core['ms']:.1f} | {core['ms_stalled']:.1f}"
            lines.append(
                f"| {data['model']} | {name} | {millions} | {shares} | {total['spills']} "
                f"| {times} |"
            )
    return lines


def _arm_kernels(found: list[Any]) -> list[str]:
    """One row per kernel of a network on one core."""
    (core,) = (core for data in found for core in data["cores"].values())
    lines = [
        "| kernel | share | cycles | instructions | per MACs | L1 misses | L2 misses | spills |",
        "|---|" + "--:|" * 7,
    ]
    for row in core["rows"]:
        speed = row["cycles_per_step"] or row["cycles_per_mac"]
        lines.append(
            f"| {row['layer']} | {100 * row['share']:.1f} % | {row['cycles']:,} "
            f"| {row['instructions']:,} | {'' if speed is None else f'{speed:.2f}'} "
            f"| {row['l1_misses']:,} | {row['l2_misses']:,} | {row['spills']} |"
        )
    return lines


def _arm_tuned(found: list[Any]) -> list[str]:
    """One row per core: its modelled records, each kernel once."""
    heads = "kernels | another tile wins | sum by the rules, ms | tuned | gain | largest gain"
    lines = [
        f"| core | {heads} |",
        "|---|" + "--:|" * 6,
    ]
    for rows in found:
        (core,) = {row["cpu"] for row in rows}
        winners = [row["gain"] for row in rows if row["decisions"] != "rule"]
        before, after = (sum(row[key] for row in rows) / 1e3 for key in ("rule us", "best us"))
        lines.append(
            f"| {core} | {len(rows)} | {len(winners)} | {before:.2f} | {after:.2f} "
            f"| {before / after:.3f} | {max(winners, default=1.0):.3f} |"
        )
    return lines


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
    return Figure(_PERFORMANCE, commands, _networks)


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
        _engines,
    ),
    "machine": Figure(_PERFORMANCE, (("bench", "--machine"),), _limits),
    "layers": Figure(
        _PERFORMANCE, (("bench", "--layers", "--plot", "docs/roofline-layers.svg"),), _layers
    ),
    "layers-avx2": Figure(_PERFORMANCE, (("bench", "--layers", *_AVX2),), _layers),
    "resnet18-layers": Figure(
        _PERFORMANCE,
        (("bench", "resnet18-plain", "--layers", "--plot", "docs/roofline-resnet18.svg"),),
        _layers,
    ),
    "resnet18-plain": _network("resnet18-plain", few=_PEERS, stems=("winograd",)),
    "resnet18-case4": _network("resnet18"),
    "resnet18-bireal": _network("resnet18-bireal"),
    "quicknet": _network("quicknet"),
    "alexnet": _network("alexnet"),
    "resnet18-cifar": _network("resnet18-cifar"),
    "arm-layers": Figure(_ARM, (_ARM_LAYERS,), _arm_layers, emulator),
    "arm-float": Figure(_ARM, (_ARM_LAYERS,), _arm_float, emulator),
    "arm-networks": Figure(
        _ARM,
        tuple(("bench", name, *_CORES) for name in ("resnet18-bireal", "resnet18")),
        _arm_networks,
        emulator,
    ),
    "arm-tuned": Figure(
        ("docs/tuning.md",),
        tuple(
            ("records", "best", f"schedules/records/{core}.jsonl")
            for core in ("cortex-a72", "cortex-a53", "cortex-a76")
        ),
        _arm_tuned,
        emulator,
    ),
    "arm-kernels": Figure(
        _ARM,
        (("bench", "resnet18-bireal", "--model-cost", "cortex-a72"),),
        _arm_kernels,
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

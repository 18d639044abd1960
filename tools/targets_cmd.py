# SPDX-License-Identifier: Apache-2.0
"""``xnortvm targets``: the presets, the CPUs, or what one target resolves to."""

from __future__ import annotations

import argparse

from xnortvm.tools.outcome import Outcome, table

HELP = "list the presets that --target accepts, or show what a target stands for"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("target", nargs="?", help="show what this target stands for")
    parser.add_argument(
        "--cpus", action="store_true", help="list the names that -mcpu= accepts instead"
    )
    parser.add_argument(
        "--cuda",
        action="store_true",
        help="list the architectures that -arch= accepts, and their binary instructions",
    )
    parser.add_argument("--triple", help="with --cpus: only those of one triple")


def run(args: argparse.Namespace) -> Outcome:
    """Print the list, or one target."""
    from xnortvm.target import ARCHES, cpus, resolve, targets

    if args.cuda:
        cells = [
            (name, arch.generation, arch.chips, " ".join(sorted(arch.features)))
            for name, arch in ARCHES.items()
        ]
        text = table(["arch", "generation", "chips", "binary instructions"], cells)
        return Outcome(text, {name: arch.to_json() for name, arch in ARCHES.items()})
    if args.cpus:
        names = cpus(args.triple)
        return Outcome("\n".join(names), names)
    if args.target:
        fields = resolve(args.target).to_json()
        rows = [
            (name, " ".join(value) if isinstance(value, list) else value)
            for name, value in fields.items()
        ]
        return Outcome(table(["property", "value"], rows), fields)
    presets = targets()
    return Outcome(
        table(
            ["preset", "the same as", "what it is"],
            [(name, row.spec, row.title) for name, row in presets.items()],
        ),
        {name: row.to_json() for name, row in presets.items()},
    )

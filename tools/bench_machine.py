# SPDX-License-Identifier: Apache-2.0
"""``xnortvm bench --machine``: the limits of this machine as a table."""

from __future__ import annotations

import argparse
from typing import Any

from xnortvm.errors import ModelError
from xnortvm.runtime.timing import pinned
from xnortvm.tools.limits import DOTS, STEPS
from xnortvm.tools.machine import Machine, cache_path, limits_of_this_machine
from xnortvm.tools.outcome import Outcome, table


def run(args: argparse.Namespace) -> Outcome:
    """Show the limits, measured now or before."""
    if args.model is not None or args.layers or args.against:
        raise ModelError("--machine measures the machine alone; leave MODEL and --layers out")
    with pinned(1):
        machine = limits_of_this_machine(refresh=args.refresh)
    rows = rows_of(machine)
    text = table(list(rows[0]), [list(row.values()) for row in rows])
    bandwidth = ", ".join(f"{level} {rate / 1e9:.0f} GB/s" for level, rate in machine.read.items())
    note = (
        f"One core of {machine.cpu} at {machine.hertz / 1e9:.2f} GHz, measured {machine.date}.\n"
        f"It reads at most: {bandwidth}.\nTMAC/s are 10^12 multiply-accumulates a second. "
        f"Kept in {cache_path()}; --refresh measures again."
    )
    return Outcome(f"{text}\n\n{note}", machine.to_json())


def rows_of(machine: Machine) -> list[dict[str, Any]]:
    """Return one row per instruction set and step."""
    found = [
        (isa, name, STEPS[name].what, rate)
        for isa, steps in machine.macs.items()
        for name, rate in steps.items()
    ]
    found += [
        (DOTS[name].feature, name, "dot product of neighbours", rate)
        for name, rate in machine.dots.items()
    ]
    return [
        {
            "instructions": isa,
            "kind": name,
            "what": what,
            "TMAC/s": round(rate * 1e-12, 4),
            "MAC/cycle": round(rate / machine.hertz, 1),
        }
        for isa, name, what, rate in found
    ]

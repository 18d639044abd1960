# SPDX-License-Identifier: Apache-2.0
"""``make test-arm``: run ARM kernels and whole networks in qemu and compare all they compute."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tests.emulated.cases import kernel_programs, kernels, resnet18
from tests.emulated.verdict import Verdict
from tests.ops.kernel_cases import EPILOGUES, Case, bconv2d_case, bdense_case, bsum2d_case, sampled
from xnortvm.emulation import needs
from xnortvm.emulation.check import check
from xnortvm.emulation.network import library, network
from xnortvm.emulation.program import OUTPUT, Program
from xnortvm.emulation.run import Ran, emulate, writer
from xnortvm.errors import VerificationError
from xnortvm.schedules.isa import Isa, isa_of
from xnortvm.target import resolve

Array = np.ndarray[Any, Any]

#: What a network is made of: the graph before the kernels, and inputs.
Graph = Callable[[], tuple[Any, list[Array]]]


def zoo(name: str, **options: Any) -> tuple[Any, list[Array]]:
    """Return a network of `xnortvm.models` after the target-independent phases, and an input."""
    from models import build, random_input
    from xnortvm.api import lower

    model = build(name, **options)
    image = random_input(model)
    return lower(model, example_inputs=image), [image.numpy()]


def grid(isa: Isa) -> list[Case]:
    """Return all kernels: those of the other emulated CPUs, and more of the grid of tests/ops."""
    more = [
        bconv2d_case(conv, isa, EPILOGUES[i % len(EPILOGUES)], seed=i)
        for i, conv in enumerate(sampled(99, seed=3))
    ]
    more += [
        bdense_case(rows, channels, outputs, isa, "accumulator", masked=True)
        for rows, channels, outputs in ((1, 65, 33), (3, 300, 96))
    ]
    more += [bsum2d_case(conv, offset=i, seed=i) for i, conv in enumerate(sampled(9, seed=4))]
    return [*kernels(isa), *more]


class Cpu(NamedTuple):
    """What is run for one CPU.

    Attributes
    ----------
    target : str
    isa : str
        The instruction set that the kernels must be made for.
    every : int
        Of the grid, every so manieth case.
    networks : dict of str to callable
    """

    target: str
    isa: str
    every: int
    networks: dict[str, Graph]


NARROW: dict[str, Graph] = {"narrow ResNet-18": resnet18}
FULL: dict[str, Graph] = {
    "ResNet-18": partial(zoo, "resnet18"),
    "Bi-Real-18": partial(zoo, "resnet18-bireal"),
}

CPUS = {
    "cortex-a72": Cpu("llvm -mcpu=cortex-a72", "neon", 1, NARROW | FULL),
    "cortex-a53": Cpu("llvm -mcpu=cortex-a53", "neon", 1, NARROW),
    "neoverse-n1": Cpu("llvm -mcpu=neoverse-n1", "neon", 4, NARROW),
    "armv7": Cpu("armv7", "neon32", 4, NARROW),
}

#: What `make test` runs.
SAMPLE = {
    "cortex-a72": CPUS["cortex-a72"]._replace(every=11, networks=NARROW),
    "armv7": CPUS["armv7"]._replace(every=37, networks={}),
}

#: The emulator takes seconds; this is for the case that a kernel hangs.
LIMIT_S = 900.0


def verdicts(cpu: Cpu) -> Iterator[tuple[str, Verdict]]:
    """Run everything on one CPU; the first verdict is that on a wrong expectation."""
    target = resolve(cpu.target)
    isa = isa_of(target)
    assert target.isa == cpu.isa, target
    listed, functions = kernel_programs(grid(isa)[:: cpu.every], target)
    networks = {
        name: network(name, *graph(), target, f"net{number}_")
        for number, (name, graph) in enumerate(cpu.networks.items())
    }
    for made in networks.values():
        functions |= made.functions
    programs = [*listed, *(made.program for made in networks.values())]
    ran = emulate(programs, library(functions, target), target, limit_s=LIMIT_S)
    for program, its in zip(listed, ran[: len(listed)], strict=True):
        yield program.name, compared(program, its)
    for (name, made), its in zip(networks.items(), ran[len(listed) :], strict=True):
        try:
            yield name, Verdict(True, f"{check(made, its)} kernels compared with NumPy")
        except VerificationError as error:
            yield name, Verdict(False, str(error))


def compared(program: Program, ran: Ran) -> Verdict:
    """Compare what a program computed with what it had to, bit by bit."""
    if ran.complaint:
        return Verdict(False, ran.complaint)
    for index, slot in enumerate(program.slots):
        if slot.role != OUTPUT:
            continue
        bits = np.dtype(f"u{slot.value.itemsize}")
        found, expected = ran.outputs[index].view(bits), slot.value.view(bits)
        wrong = np.argwhere(found != expected)
        if len(wrong):
            at = tuple(int(i) for i in wrong[0])
            return Verdict(
                False,
                f"{len(wrong)} of {slot.value.size} elements of {writer(program, index)} are "
                f"wrong, the first at {at}: {ran.outputs[index][at]} instead of {slot.value[at]}",
            )
    return Verdict(True, "")


def run(name: str) -> bool:
    """Run everything on one CPU, print a line for each program, return whether all is well."""
    start = time.monotonic()
    (_, wrong), *rest = verdicts(CPUS[name])
    for program, verdict in rest:
        word = "ok" if verdict.ok else "FAILED"
        print(f"{name}: {program}: " + ": ".join(filter(None, (word, verdict.text))))
    if wrong.ok or not wrong.text.startswith("1 of "):
        print(f"{name}: a wrong expectation went unnoticed: {wrong.text}")
        return False
    failed = sum(not verdict.ok for _, verdict in rest)
    took = time.monotonic() - start
    print(f"{name}: {len(rest) - failed} programs right, {failed} not, in {took:.0f} s")
    return not failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when everything is right, or when there is no emulator."""
    parser = argparse.ArgumentParser(prog="make test-arm", description=__doc__)
    parser.add_argument("cpu", nargs="*", help=f"which: {', '.join(CPUS)}; all by default")
    names = parser.parse_args(arguments).cpu or list(CPUS)
    unknown = [name for name in names if name not in CPUS]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}; choose from {', '.join(CPUS)}")
    results = []
    for name in names:
        missing = needs.missing(resolve(CPUS[name].target).link)
        if missing:
            print(f"{name}: skipped: {missing}")
        else:
            results.append(run(name))
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())

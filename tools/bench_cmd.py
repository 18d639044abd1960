# SPDX-License-Identifier: Apache-2.0
"""``xnortvm bench``: how fast a model is, beside other engines, or how fast the kernels are."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xnortvm.errors import ModelError, TargetError, XnortvmError, near
from xnortvm.tools import model_arg, peers
from xnortvm.tools.outcome import Outcome, table
from xnortvm.tools.timing import Times, pinned, race

if TYPE_CHECKING:
    from xnortvm.runtime.module import CompiledModel
    from xnortvm.target import Target

HELP = "time a compiled model beside other engines, or the packed kernels layer by layer"

_log = logging.getLogger("xnortvm.tools.bench")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    model_arg.add_arguments(parser, optional=True)
    parser.add_argument(
        "--layers",
        action="store_true",
        help="time the packed kernels of common layers instead, in TBMAC/s (10^12 binary "
        "multiply-accumulates a second), and as a share of what this machine can do",
    )
    parser.add_argument("--num-threads", type=int, default=1, metavar="N", help="threads of all")
    parser.add_argument("--repeats", type=int, metavar="N", help="timed calls of each engine")
    parser.add_argument(
        "--against",
        metavar="PEERS",
        default="",
        help=f"engines to compare with, separated by commas: {', '.join(peers.PEERS)}",
    )
    parser.add_argument("--profile", action="store_true", help="show the time of every kernel")


def run(args: argparse.Namespace) -> Outcome:
    """Time the model or the kernels."""
    if args.repeats is not None and args.repeats < 1:
        raise XnortvmError(f"--repeats={args.repeats} is not a number of calls; give at least 1")
    if args.layers:
        if args.model is not None:
            raise ModelError("--layers times the kernels of common layers and takes no MODEL")
        return _layers(args)
    if args.model is None:
        raise ModelError("there is nothing to time: name a MODEL, or give --layers")
    return _model(args)


def _target(args: argparse.Namespace) -> Target:
    """Resolve ``--target``, and refuse a foreign one before anything is compiled."""
    from xnortvm.target import resolve

    target = resolve(args.target, num_threads=args.num_threads)
    if not target.is_host:
        raise TargetError(
            f"code for {target.name} cannot be timed here, this machine cannot run it; "
            "leave --target out, or run `xnortvm bench` on such a machine"
        )
    return target


def _layers(args: argparse.Namespace) -> Outcome:
    from xnortvm.tools.bench_layers import rows

    _target(args)
    with pinned(1):
        found = list(rows(args.target))
    return Outcome(table(list(found[0]), [list(row.values()) for row in found]), found)


def _model(args: argparse.Namespace) -> Outcome:
    names = [name.strip() for name in args.against.split(",") if name.strip()]
    for name in names:
        if name not in peers.PEERS:
            raise ModelError(
                f"--against has the unknown engine {name!r}{near(name, peers.PEERS)}; "
                f"known are {', '.join(peers.PEERS)}"
            )
    compiled, source = _compiled(args, names)
    inputs = _inputs(compiled, source)
    mine = _as_list(compiled(*inputs))
    contestants = {"xnortvm": lambda: compiled(*inputs)}
    agreements: dict[str, peers.Agreement] = {}
    with pinned(args.num_threads) as core:
        for name in names:
            assert source is not None
            runner = peers.PEERS[name](source, args.num_threads)
            agreements[name] = peers.compare(mine, runner(inputs), name)
            contestants[name] = lambda runner=runner: runner(inputs)  # type: ignore[misc]
        times = race(contestants, args.repeats)
        profile = compiled.profile(inputs) if args.profile else None
    data = {
        "model": args.model,
        "target": compiled.target_name,
        "num_threads": args.num_threads,
        "core": core,
        "engines": {
            name: {
                **each.to_json(),
                "times_slower": each.median_ms / times["xnortvm"].median_ms,
                "agreement": agreements[name].to_json() if name in agreements else None,
            }
            for name, each in times.items()
        },
        "profile": profile.to_json() if profile else None,
    }
    text = _text(args, compiled, times, agreements, core)
    return Outcome(f"{text}\n\n{profile}" if profile else text, data)


def _compiled(
    args: argparse.Namespace, names: Sequence[str]
) -> tuple[CompiledModel, model_arg.Source | None]:
    """Return the compiled model, and what it was compiled from where that is known."""
    import xnortvm

    if model_arg.is_compiled(args.model):
        if names:
            raise ModelError(
                f"{args.model} is compiled, other engines cannot run it; "
                "name the .pt2 or .onnx file that it was compiled from"
            )
        return model_arg.load_compiled(args.model), None
    target = _target(args)
    source = model_arg.find_source(args)
    _log.info("compiling %s for %s (%s)", source.name, target.name, target.isa)
    compiled = xnortvm.compile(
        source.model,
        target=args.target,
        example_inputs=source.example_inputs,
        num_threads=args.num_threads,
    )
    return compiled, source


def _inputs(compiled: CompiledModel, source: model_arg.Source | None) -> list[Any]:
    """Return NumPy inputs: those of the network, else random ones of the right shape."""
    if source is not None and source.example_inputs is not None:
        return [value.numpy() for value in source.example_inputs]
    random = np.random.default_rng(0)
    return [
        np.asarray(random.standard_normal(spec.of_batch(1))).astype(spec.dtype)
        for spec in compiled.inputs
    ]


def _as_list(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple) else [result]


def _text(
    args: argparse.Namespace,
    compiled: CompiledModel,
    times: dict[str, Times],
    agreements: dict[str, peers.Agreement],
    core: int | None,
) -> str:
    mine = times["xnortvm"].median_ms
    rows = [
        (
            name,
            each.median_ms,
            each.min_ms,
            each.mean_ms,
            each.runs,
            f"{each.median_ms / mine:.2f}×",
            f"{agreements[name].error:.0e}" if name in agreements else None,
        )
        for name, each in times.items()
    ]
    head = ["engine", "median ms", "min ms", "mean ms", "runs", "time", "difference"]
    threads = "1 thread" if args.num_threads == 1 else f"{args.num_threads} threads"
    where = f", pinned to core {core}" if core is not None else ""
    notes = [f"{args.model} for {compiled.target_name}, {threads}{where}; ms are milliseconds."]
    if agreements:
        notes.append(
            "Engines took turns. difference: largest one to xnortvm's output, relative to the "
            "largest output."
        )
    return table(head, rows) + "\n\n" + "\n".join(notes)

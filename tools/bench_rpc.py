# SPDX-License-Identifier: Apache-2.0
"""``xnortvm bench MODEL --rpc``: a model on a board behind TVM's RPC tracker, checked and timed."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from xnortvm.errors import ModelError, XnortvmError
from xnortvm.runtime import bundle, selftest
from xnortvm.runtime.folder import Example
from xnortvm.runtime.tracker import Tracker
from xnortvm.tools import model_arg, rpc_board
from xnortvm.tools.outcome import Outcome, table

_log = logging.getLogger("xnortvm.tools.bench")

#: Options of ``bench`` that look at this machine or at code that runs in this process.
_HERE = ("against", "profile", "plot", "layers", "machine", "model_cost")


class _Work(NamedTuple):
    """What is sent, and what is expected to come back."""

    library: bytes
    target: str
    triple: str
    names: list[str]
    example: Example


def run(args: argparse.Namespace) -> Outcome:
    """Upload the library, compare the outputs, time the calls on the board.

    Wrong outputs make the exit status 1.
    """
    if args.model is None:
        raise ModelError("there is nothing to time: name a MODEL beside --rpc")
    if not args.key:
        raise ModelError("--rpc needs --key, under which the board registered, such as --key rpi4")
    unfit = [f"--{name.replace('_', '-')}" for name in _HERE if getattr(args, name, None)]
    if unfit:
        raise XnortvmError(f"{', '.join(unfit)} cannot be had of a board; leave it out with --rpc")
    tracker = Tracker.of(args.rpc, args.key)
    work = _saved(args) if model_arg.is_compiled(args.model) else _compiled(args)
    _log.info("sending %.1f MiB to %s", len(work.library) / 2**20, tracker.key)
    ran = rpc_board.run(
        tracker,
        work.library,
        work.example.inputs,
        triple=work.triple,
        num_threads=args.num_threads,
        repeats=args.repeats,
        timeout=args.timeout,
    )
    outputs = selftest.compare(work.names, ran.outputs, work.example.outputs, work.example.bound)
    wrong = [output.name for output in outputs if not output.fits]
    data = {
        "model": args.model,
        "target": work.target,
        "tracker": str(tracker),
        "key": tracker.key,
        "passed": not wrong,
        "bound": work.example.bound,
        "outputs": [asdict(output) for output in outputs],
        "latency": ran.latency.to_json(),
    }
    rows = [[o.name, f"{o.largest:.2g}", "as expected" if o.fits else "WRONG"] for o in outputs]
    found = table(["output", "largest difference", f"bound {work.example.bound:.2g}"], rows)
    text = f"{args.model} for {work.target}, on {tracker.key} of {tracker}\n\n{found}\n\n"
    text += f"Outputs are WRONG: {', '.join(wrong)}." if wrong else str(ran.latency)
    return Outcome(text, data, status=int(bool(wrong)))


def _saved(args: argparse.Namespace) -> _Work:
    """Read a folder; its library is not loaded here, so it may be for any machine."""
    manifest, members = bundle.read(Path(args.model))
    example = selftest.example_of(manifest, members, args.model)
    return _Work(
        members[bundle.LIBRARY],
        str(manifest["target"]),
        str(manifest["machine"]["triple"]),
        [str(row["name"]) for row in manifest["interface"]["outputs"]],
        example,
    )


def _compiled(args: argparse.Namespace) -> _Work:
    import xnortvm
    from xnortvm.target import resolve
    from xnortvm.tools.example_data import find_example

    target = resolve(args.target, num_threads=args.num_threads)
    source = model_arg.find_source(args)
    options: dict[str, Any] = {
        "example_inputs": source.example_inputs,
        "num_threads": args.num_threads,
        "stem": args.stem,
        "verify": None,
        "records": model_arg.records_of(args),
    }
    _log.info("compiling %s for %s (%s)", source.name, target.name, target.isa)
    compiled = xnortvm.compile(source.model, target=args.target, **options)
    example = find_example(compiled, source, target, options)
    if example is None:
        raise ModelError(
            f"there are no outputs to compare with: this machine cannot run {args.model}; compile "
            "it where it runs and name the folder"
        )
    names = [spec.name for spec in compiled.outputs]
    return _Work(compiled.library, target.name, target.triple, names, example)

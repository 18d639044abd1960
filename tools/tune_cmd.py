# SPDX-License-Identifier: Apache-2.0
"""``xnortvm tune``: measure other schedules of a model's kernels and record the best."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from xnortvm.errors import OutputError
from xnortvm.tools import model_arg
from xnortvm.tools.outcome import Outcome
from xnortvm.tools.tune_progress import Limits, Progress

HELP = "measure other schedules of a model's kernels, here or on boards, and record the best"
#: Exit statuses by how the search ended; others are those of an error.
_STATUS = {"done": 0, "time limit": 0, "interrupted": 130}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    model_arg.add_arguments(parser)
    parser.add_argument("--trials", type=int, default=64, metavar="N", help="candidates per kernel")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="of the search")
    parser.add_argument(
        "--records", metavar="PLACE", help="a .jsonl file or a folder; by default the user's own"
    )
    parser.add_argument("--strategy", default="xgboost", help="xgboost or random")
    parser.add_argument("--search-seed", type=int, default=0, metavar="N", help="of the search")
    parser.add_argument("--num-threads", type=int, metavar="N", help="threads of the kernels")
    parser.add_argument("--sign-zero", choices=["+1"], help="as for `xnortvm compile`")
    parser.add_argument(
        "--network",
        action=argparse.BooleanOptionalAction,
        help="time the whole network by the rules and tuned in the end; by default when something "
        "was measured",
    )
    parser.add_argument(
        "--rpc", metavar="HOST:PORT", help="measure on the boards of TVM's RPC tracker there"
    )
    parser.add_argument("--key", metavar="NAME", help="what the boards are registered as")
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="for one candidate"
    )
    parser.add_argument(
        "--runner",
        default="local",
        help="local, this machine, or model: candidates for an ARM core that is not at hand, in an "
        "emulator, with modelled cycles (needs --target, such as rpi4)",
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the best time so far of each task")


def run(args: argparse.Namespace) -> Outcome:
    """Tune MODEL."""
    import xnortvm

    if args.plot and not Path(args.plot).absolute().parent.is_dir():
        raise OutputError(f"{args.plot} cannot be written: its folder does not exist")
    source = model_arg.find_source(args)
    limits = Limits(args.target, args.num_threads)
    show = Progress(limits) if sys.stderr.isatty() and not args.quiet else None
    records = xnortvm.tune(
        source.model,
        target=args.target,
        example_inputs=source.example_inputs,
        num_threads=args.num_threads,
        sign_zero=args.sign_zero,
        trials=args.trials,
        time_limit=args.time_limit,
        records=args.records,
        seed=args.search_seed,
        strategy=args.strategy,
        network=args.network,
        rpc=args.rpc,
        key=args.key,
        timeout=args.timeout,
        runner=args.runner,
        **({} if show is None else {"progress": show}),
    )
    if show is not None:
        show.end()
    summary = records.summary
    assert summary is not None
    for row in summary.rows:
        row.limit_us = limits.of(row.kind, row.macs, row.bytes)
    text = str(summary)
    if args.plot:
        summary.plot(args.plot)
        text += f"\nPlot written to {args.plot}"
    data = {"model": source.name, "records": str(records.paths[0]), **summary.to_json()}
    return Outcome(text, data, _STATUS.get(summary.ended, 1))

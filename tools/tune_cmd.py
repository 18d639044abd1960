# SPDX-License-Identifier: Apache-2.0
"""``xnortvm tune``: measure other schedules of a model's kernels and record the best."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xnortvm.errors import OutputError
from xnortvm.tools import model_arg
from xnortvm.tools.outcome import Outcome

if TYPE_CHECKING:
    from xnortvm.tuning.search import Search

HELP = "measure other schedules of a model's kernels on this machine and record the best"


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
    parser.add_argument("--plot", metavar="FILE", help="draw the best time so far of each task")


def run(args: argparse.Namespace) -> Outcome:
    """Tune MODEL."""
    import xnortvm

    if args.plot and not Path(args.plot).absolute().parent.is_dir():
        raise OutputError(f"{args.plot} cannot be written: its folder does not exist")
    source = model_arg.find_source(args)
    show = Progress() if sys.stderr.isatty() and not args.quiet else None
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
        **({} if show is None else {"progress": show}),
    )
    if show is not None:
        show.end()
    summary = records.summary
    assert summary is not None
    text = str(summary)
    if args.plot:
        summary.plot(args.plot)
        text += f"\nPlot written to {args.plot}"
    data = {"model": source.name, "records": str(records.paths[0]), **summary.to_json()}
    return Outcome(text, data, 130 if summary.ended == "interrupted" else 0)


class Progress:
    """One line on the terminal, rewritten after each step."""

    def __init__(self) -> None:
        self._width = 0
        self._begun: int | None = None

    def __call__(self, search: Search) -> None:
        """Show how far a search is."""
        line = self.line(search)
        print("\r" + line.ljust(self._width), end="", file=sys.stderr, flush=True)
        self._width = len(line)

    def line(self, search: Search) -> str:
        """Return the line."""
        states = search.states
        done = sum(len(state.measured) for state in states)
        wanted = sum(search.wanted(state) for state in states)
        new = sum(state.new for state in states)
        left = search.elapsed / new * (wanted - done) if new else 0.0
        if search.options.time_limit is not None:
            left = min(left, max(search.options.time_limit - search.elapsed, 0.0))
        failed = sum(bool(r.failure) for state in states for r in state.measured.values())
        latest = max(states, key=lambda state: state.new, default=None)
        shown = ""
        if latest is not None and latest.best_us is not None:
            shown = f", {latest.task.key}: {latest.best_us:.2f} µs"
        return (
            f"{done} of {wanted} candidates, {failed} failed, {search.elapsed:.0f} s, "
            f"about {left:.0f} s left{shown}"
        )

    def end(self) -> None:
        """Leave the line."""
        if self._width:
            print(file=sys.stderr)

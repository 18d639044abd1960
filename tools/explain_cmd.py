# SPDX-License-Identifier: Apache-2.0
"""``xnortvm explain``: what would become binary and what not, with reasons, without compiling."""

from __future__ import annotations

import argparse

from xnortvm.tools import model_arg
from xnortvm.tools.outcome import Outcome

HELP = "say which layers become binary, and why others do not, without compiling"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    model_arg.add_arguments(parser)
    model_arg.add_stem(parser)
    model_arg.add_trunk(parser)
    parser.add_argument(
        "--sign-zero",
        choices=["+1"],
        help="take sign(0), a true zero in PyTorch, as +1 instead of keeping it",
    )


def run(args: argparse.Namespace) -> Outcome:
    """Print the report of MODEL."""
    import xnortvm

    if model_arg.is_compiled(args.model):
        report = model_arg.load_compiled(args.model).report
    else:
        source = model_arg.find_source(args)
        report = xnortvm.explain(
            source.model,
            target=args.target,
            example_inputs=source.example_inputs,
            sign_zero=args.sign_zero,
            stem=args.stem,
            trunk=args.trunk,
        )
    return Outcome(str(report), report.to_json())

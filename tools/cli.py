# SPDX-License-Identifier: Apache-2.0
"""The ``xnortvm`` command: a table of sub-commands and what all of them share.

A sub-command is a module with ``HELP``, ``add_arguments(parser)`` and ``run(args) -> Outcome``.
Standard output carries the result and nothing else; everything said on the way goes to standard
error, so that ``--json`` output can be piped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence

from xnortvm import __version__
from xnortvm.errors import XnortvmError
from xnortvm.tools import (
    ablation_cmd,
    bench_cmd,
    compile_cmd,
    deploy_cmd,
    doctor_cmd,
    explain_cmd,
    records_cmd,
    targets_cmd,
    train_cmd,
    tune_cmd,
)

COMMANDS = {
    "compile": compile_cmd,
    "explain": explain_cmd,
    "bench": bench_cmd,
    "deploy": deploy_cmd,
    "tune": tune_cmd,
    "records": records_cmd,
    "train": train_cmd,
    "ablation": ablation_cmd,
    "doctor": doctor_cmd,
    "targets": targets_cmd,
}

_INTERRUPTED = 130  # as shells report a process that SIGINT ended


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON and nothing else")
    shared.add_argument("-q", "--quiet", action="store_true", help="say only what goes wrong")
    shared.add_argument(
        "--traceback", action="store_true", help="show where in the code an error was raised"
    )
    parser = argparse.ArgumentParser(
        prog="xnortvm", description="Packed XNOR-popcount code for binary neural networks."
    )
    parser.add_argument("--version", action="version", version=f"xnortvm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            parents=[shared],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; ``sys.argv`` by default.

    Returns
    -------
    int
        Exit status: 0 when all is well, 1 when something failed, 2 for wrong arguments.
    """
    args = build_parser().parse_args(argv)
    with _logging_to_stderr(quiet=args.quiet):
        try:
            with contextlib.redirect_stdout(sys.stderr):
                outcome = args.run(args)
        except XnortvmError as error:
            if args.traceback:
                raise
            print(f"xnortvm: error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("xnortvm: interrupted", file=sys.stderr)
            return _INTERRUPTED
    try:
        if args.json:
            print(json.dumps(outcome.data, indent=2, ensure_ascii=False))
        elif outcome.text:
            print(outcome.text)
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone, as in `xnortvm targets | head`
    return int(outcome.status)


@contextlib.contextmanager
def _logging_to_stderr(*, quiet: bool) -> Iterator[None]:
    """Print what xnortvm logs; one line a message, no decoration."""
    logger = logging.getLogger("xnortvm")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("xnortvm: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


if __name__ == "__main__":
    sys.exit(main())

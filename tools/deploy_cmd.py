# SPDX-License-Identifier: Apache-2.0
"""``xnortvm deploy``: a model's folder onto a board, tested and timed there."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from xnortvm._triples import family_of, link_triple
from xnortvm.errors import BoardError, ModelError, TargetError
from xnortvm.runtime.measure import BenchmarkResult
from xnortvm.tools.outcome import Outcome, table
from xnortvm.tools.ssh import Board, last_line, quoted

HELP = "copy a model's folder to a board over ssh, check its outputs there and time it"

_log = logging.getLogger("xnortvm.tools.deploy")

# Run by the board's Python: which packages does it lack? None of them is imported.
_PROBE = b"""
import importlib.util
names = ("xnortvm", "tvm", "tvm_ffi", "numpy")
print("lacks", *[name for name in names if importlib.util.find_spec(name) is None])
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "folder", metavar="FOLDER", help="what xnortvm compile MODEL --target … -o FOLDER/ wrote"
    )
    parser.add_argument(
        "--ssh", metavar="USER@HOST", required=True, help="the board; ssh has to need no password"
    )
    parser.add_argument("--port", type=int, metavar="N", help="of ssh, if not 22")
    parser.add_argument(
        "--to", metavar="DIR", help="folder on the board; by default ~/models/NAME of FOLDER"
    )
    parser.add_argument(
        "--python",
        metavar="COMMAND",
        default="python3",
        help="Python on the board that has xnortvm installed, such as ~/env/bin/python",
    )
    parser.add_argument("--repeats", type=int, metavar="N", help="timed calls")
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="seconds for the self-test"
    )


def run(args: argparse.Namespace) -> Outcome:
    """Copy FOLDER, run its self-test on the board, and say how it went.

    A self-test whose outputs are wrong makes the exit status 1.
    """
    from xnortvm.runtime import bundle  # loads TVM

    folder = Path(args.folder)
    manifest, _ = bundle.read(folder)
    if not folder.is_dir() or "selftest" not in manifest:
        raise ModelError(
            f"{folder} is no folder with example inputs; write one with "
            "xnortvm compile MODEL --target … -o FOLDER/"
        )
    to = args.to or f"models/{folder.resolve().name}"
    board = Board(args.ssh, args.port)
    _check(board, args.python, str(manifest["machine"]["triple"]), str(manifest["target"]))
    size = board.send(folder, to)
    _log.info("copied %.1f MiB to %s:%s", size / 2**20, board.host, to)
    test = _self_test(board, args, to)
    status = int(not test["passed"])
    data = {"board": board.host, "folder": to, "target": manifest["target"], **test}
    return Outcome(_text(board, to, test), data, status)


def _check(board: Board, python: str, triple: str, target: str) -> None:
    """Find out whether the board can run the model, before anything is copied."""
    done = board.run(f"uname -m && exec {quoted(python)} -", _PROBE, timeout=60)
    said = done.stdout.decode(errors="replace").splitlines()
    if not said:
        raise BoardError(f"{board.host} runs no commands: {last_line(done.stderr) or 'no output'}")
    machine, needs = said[0].strip(), family_of(triple).name
    if _family(machine) != needs:
        raise TargetError(
            f"{board.host} is a {machine} machine and the model was compiled for {target}, which "
            f"means {link_triple(triple)}; compile it with a --target for that board"
        )
    if done.returncode != 0:
        raise BoardError(
            f"{board.host} cannot run {python}: {last_line(done.stderr)}; install Python there, or "
            "name one with --python"
        )
    lacks = next((line.split()[1:] for line in said if line.startswith("lacks")), [])
    if lacks:
        raise BoardError(
            f"{python} on {board.host} lacks {', '.join(lacks)}; run there: "
            f"{python} -m pip install xnortvm"
        )


def _family(machine: str) -> str:
    try:
        return family_of(machine).name
    except TargetError:
        return machine


def _self_test(board: Board, args: argparse.Namespace, to: str) -> dict[str, Any]:
    repeats = "" if args.repeats is None else f" --repeats {args.repeats}"
    command = f"{quoted(args.python)} -m xnortvm.runtime.selftest {quoted(to)}{repeats}"
    done = board.run(command, timeout=args.timeout)
    try:
        test = json.loads(last_line(done.stdout))
        passed = bool(test["passed"])
    except (ValueError, KeyError, TypeError) as error:
        ended = f"signal {done.returncode - 128}" if done.returncode > 128 else "an error"
        raise BoardError(
            f"the self-test on {board.host} ended with {ended}: "
            f"{last_line(done.stderr) or 'it said nothing'}"
        ) from error
    if "error" in test:
        raise BoardError(f"the self-test on {board.host} could not run: {test['error']}")
    return {**test, "passed": passed}


def _text(board: Board, to: str, test: dict[str, Any]) -> str:
    rows = [
        [row["name"], f"{row['largest']:.2g}", "as expected" if row["fits"] else "WRONG"]
        for row in test["outputs"]
    ]
    found = table(["output", "largest difference", f"bound {test['bound']:.2g}"], rows)
    verdict = (
        "The self-test passed."
        if test["passed"]
        else "The self-test FAILED: the board computes something else than the machine that "
        "compiled the model."
    )
    latency = BenchmarkResult(**test["latency"])
    return f"{board.host}:{to} on {test['machine']}\n\n{found}\n\n{latency}\n{verdict}"

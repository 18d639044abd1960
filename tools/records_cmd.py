# SPDX-License-Identifier: Apache-2.0
"""``xnortvm records``: look at tuning records, join, thin out and export them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from xnortvm.errors import ModelError, OutputError
from xnortvm.tools.outcome import Outcome, table

HELP = "look at tuning records: list, best, merge, prune, export"

#: What figures of records are that name no unit.
MEASURED = "measured"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("action", choices=list(ACTIONS), help="what to do")
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="files of records; list and best: those of this machine by default; merge: the first "
        "gets what the others have",
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="export: the file to write")


def run(args: argparse.Namespace) -> Outcome:
    """Do one of the actions."""
    return ACTIONS[args.action](args)


def _files(args: argparse.Namespace, fewest: int = 0) -> list[Path]:
    from xnortvm.target import resolve
    from xnortvm.tuning.find import file_for, shipped_folder, user_folder

    files = [Path(name) for name in args.files]
    if len(files) < fewest:
        raise ModelError(
            f"`xnortvm records {args.action}` needs {fewest} file{'s' if fewest > 1 else ''} of "
            f"records, got {len(files)}"
        )
    for file in files[1:] if args.action == "merge" else files:
        if not file.is_file():
            raise ModelError(f"{file} is no file of tuning records: there is no such file")
    here = resolve("llvm")
    return files or [file_for(folder, here) for folder in (user_folder(), shipped_folder())]


def _list(args: argparse.Namespace) -> Outcome:
    from xnortvm.tuning.records import Records

    records = Records(*_files(args))
    rows = [
        {
            "kind": each.kind,
            "kernel": str(each.key),
            "cpu": each.target.mcpu,
            "isa": each.target.isa,
            "threads": each.target.threads,
            "decisions": str(each.decisions),
            "us": each.us,
            "rule us": each.rule_us,
            "unit": each.unit or MEASURED,
            "failure": each.failure,
            "date": each.date,
            "current": each.is_current,
        }
        for each in records
    ]
    damaged, other = len(records.damaged), len(records.other)
    note = f"{len(rows)} records, {damaged} damaged lines, {other} lines of other formats"
    if not rows:
        return Outcome(note, rows)
    return Outcome(table(list(rows[0]), [list(row.values()) for row in rows]) + "\n\n" + note, rows)


def _best(args: argparse.Namespace) -> Outcome:
    from xnortvm.tuning.records import Records

    rows = [
        {
            "kernel": str(each.key),
            "epilogue": each.key.epilogue,
            "cpu": each.target.mcpu,
            "threads": each.target.threads,
            "decisions": str(each.decisions) if each.gain > 1 else "rule",
            "rule us": each.rule_us,
            "best us": each.us,
            "gain": round(each.gain, 3),
            "unit": each.unit or MEASURED,
        }
        for each in Records(*_files(args)).all_best()
    ]
    if not rows:
        return Outcome("no kernel is tuned; `xnortvm tune MODEL` does it", rows)
    return Outcome(table(list(rows[0]), [list(row.values()) for row in rows]), rows)


def _merge(args: argparse.Namespace) -> Outcome:
    from xnortvm.tuning.records import merge

    into, *others = _files(args, fewest=2)
    added = merge(into, others)
    return Outcome(f"{added} records added to {into}", {"added": added, "file": str(into)})


def _prune(args: argparse.Namespace) -> Outcome:
    from xnortvm.tuning.records import prune

    rows = []
    for file in _files(args, fewest=1):
        before, after = prune(file)
        rows.append({"file": str(file), "before": before, "after": after})
    text = "\n".join(f"{row['file']}: {row['before']} lines, now {row['after']}" for row in rows)
    return Outcome(text, rows)


def _export(args: argparse.Namespace) -> Outcome:
    from xnortvm.tuning.records import Records, write_lines

    if not args.output:
        raise OutputError("`xnortvm records export` needs a file to write: -o OUT")
    best = Records(*_files(args)).all_best()
    write_lines(Path(args.output), [each.to_line() for each in best])
    return Outcome(
        f"{len(best)} records, the best of every kernel, written to {args.output}",
        {"records": len(best), "file": args.output},
    )


ACTIONS: dict[str, Callable[[argparse.Namespace], Outcome]] = {
    "list": _list,
    "best": _best,
    "merge": _merge,
    "prune": _prune,
    "export": _export,
}

# SPDX-License-Identifier: Apache-2.0
"""Tuning records of what a bundle measured.

    python -m xnortvm.tools.gpu_bundle.records gpu-result/result.json -o schedules/records

Only shapes whose candidates all computed the same are taken; shapes of a version of TVM or xnortvm
that is not this one give records that this one does not apply.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xnortvm.errors import ModelError, XnortvmError
from xnortvm.tuning.records import Record, append_line


def records_of(result: dict[str, Any]) -> tuple[list[Record], dict[str, str]]:
    """Return the records of a result, and why other shapes gave none.

    Raises
    ------
    ModelError
        When the result has no part "tune".
    """
    part = result.get("parts", {}).get("tune")
    if part is None or "rows" not in part:
        why = f" ({part['why']})" if part and "why" in part else ""
        raise ModelError(f"the result has no part tune{why}; run `bash run.sh --only tune` there")
    where = str((result.get("chip") or {}).get("name", "")) or "a CPU"
    found, left_out = [], {}
    for name, row in part["rows"].items():
        if "record" not in row or not row["exact"]:
            reason = "wrong outputs" if row.get("exact") is False else ""
            left_out[name] = reason or str(row.get("error") or row.get("skipped"))
            continue
        data = {**row["record"], "where": where, "date": result["date"]}
        try:
            found.append(Record.from_line(json.dumps(data)))
        except ValueError as error:
            raise ModelError(f"the record of {name} cannot be read: {error}") from error
    return found, left_out


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        prog="python -m xnortvm.tools.gpu_bundle.records",
        description="Append what a bundle measured to files of tuning records",
    )
    parser.add_argument("result", type=Path, help="result.json of a run")
    parser.add_argument("-o", "--out", type=Path, required=True, help="a folder of records")
    args = parser.parse_args(argv)
    try:
        found, left_out = records_of(_read(args.result))
        for record in found:
            append_line(args.out / f"{record.target.mcpu}.jsonl", record.to_line())
    except XnortvmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    faster = sum(record.gain > 1.0 for record in found)
    print(f"{len(found)} records, {faster} faster than the rule, in {args.out}")
    return 0


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is no result of a bundle: {error}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} is no result of a bundle: it is no JSON object")
    return data


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Which tile is the fastest? Candidates of the key shapes, timed as `xnortvm tune` does.

python3 -m parts.tune BUNDLE RESULT.json

Candidates run in a process that is replaced when one faults. The best and the rule's are timed
again in turns. `python -m xnortvm.tools.gpu_bundle.records` makes records of the result.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from .models import Entry, each, entries, prepare
from .result import write

#: After so many seconds no other shape is begun.
SECONDS = 270.0


def search(runner: Any, end: float, entry: Entry) -> dict[str, Any]:
    """Time the candidates of one shape."""
    from xnortvm.tuning.winner import FINALISTS, TURNS, winner

    if time.monotonic() > end:
        return {"skipped": "no time was left"}
    candidates, expected = entry.row["candidates"], entry.row["expected"]
    folders = [entry.file / f"c{number}" for number in range(len(candidates))]
    found = {folder: one.checked() for folder, one in runner.measure(folders[0], folders)}
    trials = [
        {"decisions": decisions, "us": one.us, "noise": one.noise, "failure": one.failure}
        for decisions, one in ((d, found[f]) for d, f in zip(candidates, folders, strict=True))
    ]
    rule, wrong = found[folders[0]], [t for t in trials if t["failure"].startswith("wrong")]
    exact = not wrong and expected in ("", rule.digest)
    good = sorted((f for f in folders[1:] if found[f].us), key=lambda f: found[f].us)
    finalists = [folders[0], *good[:FINALISTS]]
    race = runner.race(finalists, TURNS)
    about = {"exact": exact, "compared": "with a CPU" if expected else "with the rule's kernel"}
    if race.failure:
        return {**about, "trials": trials, "error": f"comparing the best failed: {race.failure}"}
    best = winner(race.turns, race.digests)
    record = {
        **entry.row["record"],
        "decisions": candidates[folders.index(finalists[best.number])],
        "us": best.us,
        "rule_us": best.rule_us,
        "noise": best.noise,
        "trials": len(trials),
    }
    return {**about, "trials": trials, "record": record}


def main() -> int:
    """Run as a command."""
    bundle = Path(sys.argv[1])

    def work() -> dict[str, Any]:
        found = entries(bundle, "tune")
        prepare(bundle)
        from xnortvm.tuning.gpu import GpuRunner
        from xnortvm.tuning.runner import LocalRunner

        # Where the process that measures finds CUDA's runtime library.
        os.environ.setdefault("CUDA_PATH", str(bundle))
        on_gpu = found[0].row["arch"] != "cpu"
        runner = GpuRunner() if on_gpu else LocalRunner(1, module="xnortvm.tuning.measurer")
        with runner:
            rows = dict(each(found, partial(search, runner, time.monotonic() + SECONDS)))
        return {"rows": rows}

    return write(Path(sys.argv[2]), work)


if __name__ == "__main__":
    sys.exit(main())

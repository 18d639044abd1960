# SPDX-License-Identifier: Apache-2.0
"""Does every kernel compute what was expected, with noise in its outputs before?

python3 -m parts.exact BUNDLE RESULT.json FAMILY
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from .models import Entry, each, entries, example, prepare
from .result import write


def check(entry: Entry) -> dict[str, Any]:
    """Run a model twice, the first time with noise in all that it allocates, and compare."""
    import xnortvm
    from xnortvm.runtime.selftest import compare

    model = xnortvm.load(entry.file)
    inputs, expected = example(entry)
    names = [spec.name for spec in model.outputs]
    outputs, filled = model.run_poisoned(inputs)
    runs = [outputs, model(*inputs)]
    differences = [d for got in runs for d in compare(names, got, expected, entry.row["bound"])]
    return {
        "exact": all(d.fits for d in differences),
        "largest": max(d.largest for d in differences),
        "bound": entry.row["bound"],
        "poisoned": filled,
        "kernels": entry.row["kernels"],
    }


def main() -> int:
    """Run as a command."""
    bundle, family = Path(sys.argv[1]), sys.argv[3]

    def work() -> dict[str, Any]:
        found = entries(bundle, "exact", family)
        prepare(bundle)
        return {"rows": dict(each(found, check))}

    return write(Path(sys.argv[2]), work)


if __name__ == "__main__":
    sys.exit(main())

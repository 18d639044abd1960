# SPDX-License-Identifier: Apache-2.0
"""How a part says what it found: one JSON file, written whatever happens."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


class SkipPart(Exception):  # noqa: N818 - no error
    """This machine lacks what a part needs; the message is a sentence."""


def write(path: Path, work: Callable[[], dict[str, Any]]) -> int:
    """Do the work of a part; write its result, or why there is none; return the exit status."""
    try:
        data, status = {"status": "done", **work()}, 0
    except SkipPart as error:
        data, status = {"status": "skipped", "why": str(error)}, 0
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        data = {
            "status": "failed",
            "why": f"{type(error).__name__}: {said[-1] if len(said) > 1 else said[0]}",
            "traceback": traceback.format_exc().splitlines()[-12:],
        }
        status = 1
    path.write_text(json.dumps(data, indent=1))
    return status

# SPDX-License-Identifier: Apache-2.0
"""Lines of the user's code in Python tracebacks."""

from __future__ import annotations

import re
from typing import NamedTuple

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*\n\s*(?P<code>[^\n]*)')

_LIBRARY = re.compile(
    r"^<|[/\\]torch[/\\](_\w+|ao|autograd|export|functional\.py|fx|jit|nn|onnx|utils)\b"
)


class SourceLine(NamedTuple):
    """One line of source code; prints as ``file.py:12: code``."""

    file: str
    line: int
    code: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.code}"


def user_lines(trace: str) -> list[SourceLine]:
    """List the frames of a traceback text that are not in PyTorch, outermost first."""
    return [
        SourceLine(match["file"], int(match["line"]), match["code"].strip())
        for match in _FRAME.finditer(trace)
        if not _LIBRARY.search(match["file"])
    ]


def innermost(trace: str | None) -> SourceLine | None:
    """Return the innermost line of the user's code in a traceback text."""
    lines = user_lines(trace or "")
    return lines[-1] if lines else None

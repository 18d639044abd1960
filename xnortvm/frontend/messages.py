# SPDX-License-Identifier: Apache-2.0
"""One line out of another library's error."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, where PyTorch and ONNX put the reason."""
    return _lines(error)[0].rstrip(".;:")


def last_line(error: BaseException) -> str:
    """Return the last line of an error's text, where TVM puts the reason."""
    return _lines(error)[-1].rstrip(".;:")


def _lines(error: BaseException) -> list[str]:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines or [type(error).__name__]

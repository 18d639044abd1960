# SPDX-License-Identifier: Apache-2.0
"""Every error that xnortvm raises on purpose.

A message is one sentence that says what went wrong, where, why, and what to do about it.
Classes that mean the same as a built-in exception also inherit from it, so that callers who
write ``except ValueError`` or ``except OSError`` keep working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class XnortvmError(Exception):
    """Base class: ``except xnortvm.XnortvmError`` catches everything raised on purpose."""


class TargetError(XnortvmError, ValueError):
    """The target is unknown, contradictory, or cannot do what is asked of it."""


class ModelError(XnortvmError, ValueError):
    """The model cannot be read, exported or imported."""


class UnsupportedOperatorError(ModelError):
    """The model holds an operator that cannot be imported."""


class InputError(XnortvmError, ValueError):
    """Arguments of a compiled model have the wrong number, shape, dtype or kind."""


class OutputError(XnortvmError, OSError):
    """A file or folder cannot be written; nothing half-written is left behind."""


class DataError(XnortvmError, ValueError):
    """Training data are missing, damaged, or do not fit the network."""


class TrainingError(XnortvmError, RuntimeError):
    """A training run cannot start, go on, or be resumed as asked."""


class VersionError(XnortvmError, ImportError):
    """An installed package has a version that is known not to work."""


class MissingDependencyError(XnortvmError, ImportError):
    """An optional package is needed for this and is not installed."""


class CompileError(XnortvmError, RuntimeError):
    """A stage of the compiler failed on a model that was imported."""


class VerificationError(XnortvmError, AssertionError):
    """A compiled layer does not compute what its reference computes."""


class BoardError(XnortvmError, ConnectionError):
    """A board cannot be reached, lacks something, or stopped answering."""


class DeviceError(XnortvmError, RuntimeError):
    """A GPU could not run what it was given, or has too little memory for it."""


def near(word: str, known: Iterable[str], limit: int = 3) -> str:
    """Return a clause that names the known words closest to a misspelt one.

    Parameters
    ----------
    word : str
        What the user wrote.
    known : iterable of str
        What would have been accepted.
    limit : int
        How many suggestions at most.

    Returns
    -------
    str
        ``" (did you mean 'a' or 'b'?)"``, or the empty string when nothing is close.

    Examples
    --------
    >>> near("cortex-a722", ["cortex-a72", "znver4"])
    " (did you mean 'cortex-a72'?)"
    """
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=limit, cutoff=0.6)
    if not found:
        return ""
    *first, last = [repr(by_lower[match]) for match in found]
    return f" (did you mean {', '.join(first)}{' or ' if first else ''}{last}?)"

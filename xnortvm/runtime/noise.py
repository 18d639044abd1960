# SPDX-License-Identifier: Apache-2.0
"""Keep TVM's own chatter off the terminal."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# TVM prints these lines, with nothing after the colon, whenever it writes or reads an executable.
_NOISE = (b"Scope Saving:", b"Scope Loaded:")


@contextmanager
def without_noise() -> Iterator[None]:
    """Drop TVM's lines of noise from file descriptor 2 and pass everything else on.

    TVM writes them from C++ and has no setting for them. Without a usable file descriptor 2
    nothing is done.
    """
    try:
        saved = os.dup(2)
    except OSError:
        yield
        return
    with tempfile.TemporaryFile() as caught:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(saved, 2)
            caught.seek(0)
            rest = b"".join(line for line in caught if not line.strip().endswith(_NOISE))
            if rest:
                os.write(saved, rest)
            os.close(saved)

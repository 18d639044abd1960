# SPDX-License-Identifier: Apache-2.0
"""A worker that starts at once, because it compiles nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from xnortvm.tuning import worker


def build(_message):
    """Build nothing: for runners that know the results."""
    return {}


def sleep(message):
    """Sleep the first time, when the file does not exist yet."""
    marker = Path(message["marker"])
    first = not marker.exists()
    marker.touch()
    time.sleep(message["seconds"] if first else 0)
    return {"first": first}


def die(_message):
    """End like a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    worker.serve({"build": build, "sleep": sleep, "die": die}, "json")

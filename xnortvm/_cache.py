# SPDX-License-Identifier: Apache-2.0
"""Where what was made once is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(name: str = "") -> Path:
    """Return a folder in the user's cache: ``$XDG_CACHE_HOME/xnortvm``, by default ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "xnortvm" / name

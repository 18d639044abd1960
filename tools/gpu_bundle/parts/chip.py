# SPDX-License-Identifier: Apache-2.0
"""What this machine is.

python3 -m parts.chip BUNDLE RESULT.json
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from xnortvm.runtime.cuda_device import Driver

from .result import write

_ASKED = (
    *("name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem"),
    *("power.limit", "temperature.gpu", "persistence_mode", "ecc.mode.current", "mig.mode.current"),
)


def host() -> dict[str, Any]:
    """Return what Python says about the machine."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "glibc": " ".join(platform.libc_ver()),
        "machine": platform.machine(),
    }


def smi() -> dict[str, str]:
    """Return what nvidia-smi says about the first device; empty without it."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return {}
    query = [command, "-i", "0", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(_ASKED, map(str.strip, done.stdout.split(",")), strict=False))


def main() -> int:
    """Run as a command."""
    return write(Path(sys.argv[2]), lambda: {"chip": Driver().describe()})


if __name__ == "__main__":
    sys.exit(main())

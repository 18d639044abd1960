# SPDX-License-Identifier: Apache-2.0
"""A board on loopback: `ssh` is a script that runs the command here, with the board's own PATH.

What a board would run as a program of its own (python3, uname) are scripts in a folder, so that a
board of another architecture is one whose python3 starts the emulator.
"""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import xnortvm

ROOT = Path(xnortvm.__file__).parent.parent

_SSH = """#!/bin/sh
# ssh [-o OPTION]… [-p PORT] [--] HOST COMMAND
while [ "$1" != "${{1#-}}" ]; do
  case "$1" in --) shift; break ;; *) shift 2 ;; esac
done
[ "$1" = {host} ] || {{ echo "ssh: connect to host $1 port 22: No route to host" >&2; exit 255; }}
{before}cd {home} && HOME={home} PATH={programs}:/usr/bin:/bin exec sh -c "$2"
"""


class StandIn:
    """A board that ``ssh pi@board`` leads to, once its `path` comes first on the search path.

    Attributes
    ----------
    home : Path
        Its home folder.
    path : Path
        Folder with the command ssh.
    """

    def __init__(self, folder: Path) -> None:
        self.home, self.path, self.programs = (folder / n for n in ("home", "path", "programs"))
        for each in (self.home, self.path, self.programs):
            each.mkdir(parents=True)
        self.answer("pi@board")
        self.program("python3", f'PYTHONPATH={ROOT} exec {sys.executable} "$@"')

    def answer(self, host: str, before: str = "") -> None:
        """Answer to a name; `before` is run here before each command."""
        before = f"{before}\n" if before else ""
        text = _SSH.format(host=host, before=before, home=self.home, programs=self.programs)
        script(self.path / "ssh", text)

    def program(self, name: str, line: str) -> None:
        """Give the board a program, one line of shell."""
        script(self.programs / name, f"#!/bin/sh\n{line}\n")


def script(path: Path, text: str) -> None:
    """Write an executable script."""
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)

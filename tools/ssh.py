# SPDX-License-Identifier: Apache-2.0
"""A board behind ssh: run a command there, copy a folder there. Nothing but ssh, sh and tar."""

from __future__ import annotations

import io
import shlex
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from xnortvm.errors import BoardError, MissingDependencyError

_UNREACHABLE = 255  # ssh's own exit status; every other one is the command's
_CONNECT_SECONDS = 15


@dataclass(frozen=True)
class Board:
    """A machine that ssh logs into without asking for a password.

    Attributes
    ----------
    host : str
        As ssh takes it: ``user@host``, or a name of ``~/.ssh/config``.
    port : int or None
        None is ssh's own default.
    """

    host: str
    port: int | None = None

    def run(
        self, command: str, stdin: bytes = b"", timeout: float | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a shell command in the home folder of the board.

        Raises
        ------
        BoardError
            When the board cannot be reached or does not answer in `timeout` seconds.
        MissingDependencyError
            When there is no ssh here.
        """
        ssh = shutil.which("ssh")
        if ssh is None:
            raise MissingDependencyError(
                "deploying needs the command ssh, which was not found; "
                "install it (Debian, Ubuntu: sudo apt install openssh-client)"
            )
        options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_SECONDS}"]
        port = [] if self.port is None else ["-p", str(self.port)]
        try:
            done = subprocess.run(
                [ssh, *options, *port, "--", self.host, command],
                input=stdin,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BoardError(
                f"{self.host} did not answer within {timeout:g} s; is it overloaded, or is "
                "--timeout too short?"
            ) from error
        if done.returncode == _UNREACHABLE:
            raise BoardError(
                f"{self.host} cannot be reached: {last_line(done.stderr) or 'ssh failed'}; try "
                f"ssh {self.host}, which has to log in without a password (ssh-copy-id sets it up)"
            )
        return done

    def send(self, folder: Path, to: str) -> int:
        """Copy a model's folder; on the board it gets its name when it is complete.

        Parameters
        ----------
        folder : Path
            What is copied.
        to : str
            Where to, on the board; relative to the home folder unless absolute.

        Returns
        -------
        int
            Bytes that were sent.

        Raises
        ------
        BoardError
            When the board cannot take it, or has another folder of that name.
        """
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(folder, arcname=".")
        there, new = quoted(to), quoted(f"{to.rstrip('/')}.new")
        done = self.run(
            f"mkdir -p {there} && if [ ! -f {there}/manifest.json ] && "
            f'[ -n "$(ls -A {there})" ]; then echo it holds other files >&2; exit 1; fi && '
            f"rm -rf {new} && mkdir {new} && tar -xf - -C {new} && "
            f"rm -rf {there} && mv {new} {there}",
            packed.getvalue(),
        )
        if done.returncode != 0:
            raise BoardError(
                f"the folder could not be copied to {self.host}:{to}: {last_line(done.stderr)}"
            )
        return packed.tell()


def quoted(path: str) -> str:
    """Quote a path for the shell of the board; ``~/`` in front keeps its meaning there."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)


def last_line(output: bytes) -> str:
    """Return the last line of what a program said."""
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""

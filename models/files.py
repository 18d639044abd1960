# SPDX-License-Identifier: Apache-2.0
"""Files that are replaced as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from xnortvm.errors import OutputError


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file so that every reader, at any time, finds the old or the new content.

    The data go to a hidden file beside `path`, reach the disk, and then take its name. A process
    that is killed, or a disk that runs full, leaves the former file as it was.

    Parameters
    ----------
    path : Path
        File to write; its folder must exist.
    data : bytes or str
        The content; text is stored as UTF-8.

    Raises
    ------
    OutputError
        When the data cannot be written, saying what has become of the former file.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    raw = data.encode() if isinstance(data, str) else data
    try:
        with open(temporary, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        former = "its former content is unharmed" if path.exists() else "nothing was written"
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}; {former}, make room or name "
            "another place and run it again"
        ) from error
    _sync_folder(path.absolute().parent)


def make_folder(path: Path) -> Path:
    """Make a folder, with the folders around it, and give it back.

    Raises
    ------
    OutputError
        When that is not possible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder {path} cannot be made: {error.strerror or error}; name another one"
        ) from error
    return path


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the error that brought us here is the one to report
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename outlast a loss of power, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

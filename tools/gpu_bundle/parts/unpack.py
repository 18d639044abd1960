# SPDX-License-Identifier: Apache-2.0
"""Unpack what travels compressed, once.

python3 -m parts.unpack
"""

from __future__ import annotations

import lzma
import sys
import tarfile
from pathlib import Path

ARCHIVE = "packed.tar.xz"
_DONE = ".unpacked"


def unpack(bundle: Path) -> None:
    """Unpack the archive of a bundle beside it, unless that was done.

    Raises
    ------
    OSError, EOFError, lzma.LZMAError, tarfile.TarError
        When the folder cannot be written or the archive is damaged.
    """
    if (bundle / _DONE).exists():
        return
    with tarfile.open(bundle / ARCHIVE) as archive:
        for member in archive:
            path = (bundle / member.name).resolve()
            data = archive.extractfile(member)
            if data is None or not path.is_relative_to(bundle.resolve()):
                raise tarfile.TarError(f"{member.name} is no file of a bundle")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.read())
    (bundle / _DONE).touch()


def main() -> int:
    """Run as a command."""
    bundle = Path(__file__).resolve().parent.parent
    try:
        unpack(bundle)
    except (EOFError, lzma.LZMAError, tarfile.TarError) as error:
        print(f"the bundle is damaged: {ARCHIVE} cannot be unpacked ({error}); copy it again")
        return 3
    except OSError as error:
        print(
            f"the bundle cannot be unpacked in {bundle} ({error.strerror or error}); copy it to a "
            "folder that can be written, with 250 MB of room"
        )
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())

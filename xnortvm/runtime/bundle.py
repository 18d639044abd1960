# SPDX-License-Identifier: Apache-2.0
"""A saved model: a ``.xnor`` file (one zip archive) or a folder, with library, report and manifest.

The manifest holds names, shapes, dtypes, target, versions and a SHA-256 of every other member.
Equal models give equal files: members are stored in a fixed order with a fixed date. A folder holds
the same members as files, and what is for people and compilers to read and change; that has no
checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from xnortvm._tvm_runtime import installed_version, release
from xnortvm.errors import ModelError, OutputError, VersionError

FORMAT = 1
MANIFEST, LIBRARY, REPORT = "manifest.json", "library.so", "report.json"
_DATE = (1980, 1, 1, 0, 0, 0)


def write(path: Path, manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """Write a bundle in one step: at every moment there is the old file, none, or the new one.

    Parameters
    ----------
    path : Path
        Where to; an existing file is replaced.
    manifest : mapping
        JSON data; format, versions and checksums are added.
    members : mapping of str to bytes
        The other members by name.

    Raises
    ------
    OutputError
        When the file cannot be written.
    """
    text = _manifest(manifest, members)
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for name, data in {MANIFEST: text, **members}.items():
                entry = zipfile.ZipInfo(name, _DATE)
                entry.external_attr = 0o644 << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        _refuse(path, error)


def write_folder(
    path: Path, manifest: Mapping[str, Any], members: Mapping[str, bytes], texts: Mapping[str, str]
) -> None:
    """Write a bundle as a folder: it gets its name when it is complete.

    Parameters
    ----------
    path : Path
        Where to; a folder that holds such a bundle, or nothing, is replaced.
    manifest, members
        As for `write`; names may have slashes.
    texts : mapping of str to str
        Files without checksums.

    Raises
    ------
    OutputError
        When the folder holds something else or cannot be written; nothing is left behind.
    """
    check_folder(path)
    files = {MANIFEST: _manifest(manifest, members), **members}
    files |= {name: text.encode() for name, text in texts.items()}
    path = path.absolute()
    temporary: Path | None = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        new, old = temporary / "new", temporary / "old"
        for name, data in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(data)
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(new, path)
        except OSError:
            if old.exists():
                os.rename(old, path)
            raise
    except OSError as error:
        _refuse(path, error)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def check_folder(path: Path) -> None:
    """Refuse a folder that holds something else than a bundle.

    Raises
    ------
    OutputError
        Says what to name instead.
    """
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).is_file():
        raise OutputError(
            f"{path} cannot be written: the folder holds other files; name a new or an empty one"
        )
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} cannot be written: it is a file; name a folder")


def _manifest(manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> bytes:
    full = {
        "format": FORMAT,
        "versions": _versions(),
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in members.items()},
        **manifest,
    }
    return json.dumps(full, indent=1, sort_keys=True).encode()


def _refuse(path: Path, error: OSError) -> NoReturn:
    raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read and check a bundle, a file or a folder.

    Returns
    -------
    manifest : dict
        The JSON data of the manifest.
    members : dict of str to bytes
        The other members by name, checksums verified.

    Raises
    ------
    ModelError
        When the file is missing, is no bundle, or is damaged.
    VersionError
        When it was written by a version that this one cannot read.
    """
    try:
        contents = _folder(path) if path.is_dir() else _archive(path)
    except FileNotFoundError as error:
        raise ModelError(f"there is no file {path}") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ModelError(
            f"{path} is not a compiled model, or is damaged ({error}); save the model again"
        ) from error
    if MANIFEST not in contents:
        raise ModelError(f"{path} is not a compiled model: it holds no {MANIFEST}")
    try:
        manifest = json.loads(contents.pop(MANIFEST))
        sums = dict(manifest["sha256"])
        form, versions = int(manifest["format"]), dict(manifest["versions"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged: its manifest cannot be read ({error})") from error
    _check_versions(path, form, versions)
    for name, expected in sums.items():
        if name not in contents:
            raise ModelError(f"{path} is damaged: {name} is missing; save the model again")
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise ModelError(
                f"{path} is damaged: the checksum of {name} does not match; save the model again"
            )
    return manifest, contents


def _archive(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _folder(path: Path) -> dict[str, bytes]:
    """Read the manifest and the members that it lists; what is wrong with them is said later."""
    if not (path / MANIFEST).is_file():
        return {}
    contents = {MANIFEST: (path / MANIFEST).read_bytes()}
    with contextlib.suppress(ValueError, KeyError, TypeError):
        names = [str(name) for name in json.loads(contents[MANIFEST])["sha256"]]
        contents |= {name: (path / name).read_bytes() for name in names if (path / name).is_file()}
    return contents


def _check_versions(path: Path, form: int, versions: Mapping[str, Any]) -> None:
    if form != FORMAT:
        raise VersionError(
            f"{path} has file format {form} and this xnortvm reads format {FORMAT}; "
            f"it was written by xnortvm {versions.get('xnortvm', 'of unknown version')}"
        )
    theirs, ours = str(versions.get("apache-tvm", "0")), _versions()["apache-tvm"]
    if release(theirs)[:2] != release(ours)[:2]:
        raise VersionError(
            f"{path} was compiled with TVM {theirs} and this is TVM {ours}; compile the model again"
        )


def _versions() -> dict[str, str]:
    import xnortvm

    names = ("apache-tvm", "apache-tvm-ffi")
    found = {name: installed_version(name) or "0" for name in names}
    return {"xnortvm": str(xnortvm.__version__), **found}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

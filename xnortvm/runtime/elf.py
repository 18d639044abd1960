# SPDX-License-Identifier: Apache-2.0
"""Read from ELF files which machine they are for, what glibc they need, what they define."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from xnortvm.errors import CompileError

#: Names of `e_machine`, as far as xnortvm makes code for them.
MACHINES = {3: "i686", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv"}

_SYMBOLS = 2  # SHT_SYMTAB
_VERSION_NEEDS = 0x6FFFFFFE  # SHT_GNU_verneed
_GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)")


class _Section(NamedTuple):
    kind: int
    offset: int
    size: int
    link: int
    entries: int


class Elf(NamedTuple):
    """What a library says about the machine that can load it.

    Attributes
    ----------
    machine : str
        Family of processors, a name of `MACHINES` or ``"machine 8"``.
    bits : int
        32 or 64.
    glibc : tuple of int
        Highest version of glibc of which it needs a symbol; empty when it needs none by version.
    """

    machine: str
    bits: int
    glibc: tuple[int, ...]


def is_elf(library: bytes) -> bool:
    """Tell whether these are the bytes of an ELF file; macOS and Windows have other formats."""
    return library[:4] == b"\x7fELF"


def read_elf(library: bytes) -> Elf:
    """Read the header and the version needs of an ELF file.

    Parameters
    ----------
    library : bytes
        A whole file, with section headers; those of either byte order are read.

    Raises
    ------
    CompileError
        When it is no ELF file, or is cut off.

    Examples
    --------
    >>> read_elf(compiled.library)  # doctest: +SKIP
    Elf(machine='aarch64', bits=64, glibc=(2, 17))
    """
    if not is_elf(library):
        raise CompileError("the linker made a file that is no ELF library")
    try:
        bits = {1: 32, 2: 64}[library[4]]
        order = {1: "<", 2: ">"}[library[5]]
        (machine,) = struct.unpack_from(f"{order}H", library, 18)
        sections = _sections(library, order, bits)
        versions = [
            tuple(map(int, found.groups()))
            for section in sections
            if section.kind == _VERSION_NEEDS
            for name in _version_names(library, order, section, sections[section.link])
            if (found := _GLIBC.fullmatch(name))
        ]
    except (struct.error, KeyError, IndexError, ValueError) as error:
        raise CompileError(f"the linker made a damaged ELF library ({error})") from error
    return Elf(MACHINES.get(machine, f"machine {machine}"), bits, max(versions, default=()))


def glibc_of(library: bytes) -> str:
    """Return the lowest glibc that a library runs with, such as ``"2.17"``; empty when any does."""
    return dotted(read_elf(library).glibc) if is_elf(library) else ""


def dotted(version: tuple[int, ...]) -> str:
    """Spell a version: ``(2, 27)`` is ``"2.27"``."""
    return ".".join(map(str, version))


def defined_symbols(code: bytes) -> list[str]:
    """Return the names of the global and weak symbols that an ELF object file defines, sorted."""
    order, bits = {1: "<", 2: ">"}[code[5]], {1: 32, 2: 64}[code[4]]
    sections = _sections(code, order, bits)
    form, size = (f"{order}IBBH", 24) if bits == 64 else (f"{order}IIIBBH", 16)
    found = set()
    for table in (section for section in sections if section.kind == _SYMBOLS):
        for start in range(table.offset, table.offset + table.size, size):
            row = struct.unpack_from(form, code, start)
            name, info, section = row[0], row[-3], row[-1]
            if section and info >> 4:  # defined, and not local
                found.add(_text(code, sections[table.link].offset + name).decode())
    return sorted(found)


def _text(code: bytes, start: int) -> bytes:
    return code[start : code.index(b"\0", start)]


def _sections(library: bytes, order: str, bits: int) -> list[_Section]:
    """Read the section headers; both classes have the same fields in words of another size."""
    word = "Q" if bits == 64 else "I"
    (table,) = struct.unpack_from(f"{order}{word}", library, 40 if bits == 64 else 32)
    size, count = struct.unpack_from(f"{order}HH", library, 58 if bits == 64 else 46)
    form = f"{order}II{word * 4}II"
    rows = [struct.unpack_from(form, library, table + index * size) for index in range(count)]
    return [_Section(row[1], row[4], row[5], row[6], row[7]) for row in rows]


def _version_names(library: bytes, order: str, needs: _Section, names: _Section) -> list[bytes]:
    """Follow the two chained lists: a library that is needed, and its versions."""
    found = []
    entry = needs.offset
    for _ in range(needs.entries):
        _, versions, _, first, step = struct.unpack_from(f"{order}HHIII", library, entry)
        auxiliary = entry + first
        for _ in range(versions):
            _, _, _, name, following = struct.unpack_from(f"{order}IHHII", library, auxiliary)
            found.append(_text(library, names.offset + name))
            auxiliary += following
        entry += step
    return found

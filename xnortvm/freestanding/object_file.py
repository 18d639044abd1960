# SPDX-License-Identifier: Apache-2.0
"""What an ELF object file holds: sections and symbols, little endian, 32 and 64 bits."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

_SYMBOLS = 2
_WRITABLE, _ALLOCATED, _EXECUTABLE = 1, 2, 4
_LOCAL, _SECTION_UNDEFINED = 0, 0


class _Form(NamedTuple):
    """How headers, sections and symbols are laid out, by the class of the file."""

    header: str
    section: str
    symbol: str
    symbol_fields: tuple[int, int, int]  # name, info, section


_FORMS = {
    1: _Form("<16xHHIIIIIHHHHHH", "<IIIIIIIIII", "<IIIBBH", (0, 3, 5)),
    2: _Form("<16xHHIQQQIHHHHHH", "<IIQQQQIIQQ", "<IBBHQQ", (0, 1, 3)),
}


class Section(NamedTuple):
    """A section: name, size in memory, and what it is for."""

    name: str
    size: int
    allocated: bool
    writable: bool
    executable: bool


@dataclass(frozen=True)
class ElfObject:
    """An object file.

    Attributes
    ----------
    sections : list of Section
    defined : frozenset of str
        Symbols that other files see.
    undefined : frozenset of str
        Symbols that it needs of other files.
    """

    sections: list[Section]
    defined: frozenset[str]
    undefined: frozenset[str]

    @property
    def code(self) -> int:
        """Bytes of machine code."""
        return sum(s.size for s in self.sections if s.executable)

    @property
    def constants(self) -> int:
        """Bytes that are only read: weights, and tables of the code."""
        return sum(
            s.size for s in self.sections if s.allocated and not s.executable and not s.writable
        )

    @property
    def state(self) -> int:
        """Bytes of variables."""
        return sum(s.size for s in self.sections if s.allocated and s.writable)


def read_object(data: bytes) -> ElfObject | None:
    """Read an object file; None when it is no ELF file of little endian."""
    if data[:4] != b"\x7fELF" or len(data) < 64 or data[4] not in _FORMS or data[5] != 1:
        return None
    form = _FORMS[data[4]]
    header = struct.unpack_from(form.header, data)
    start, size, count, names = header[5], header[10], header[11], header[12]
    rows = [struct.unpack_from(form.section, data, start + i * size) for i in range(count)]
    text = rows[names]
    sections = [
        Section(
            _string(data, text[4] + row[0]),
            row[5],
            bool(row[2] & _ALLOCATED),
            bool(row[2] & _WRITABLE),
            bool(row[2] & _EXECUTABLE),
        )
        for row in rows
    ]
    defined: set[str] = set()
    undefined: set[str] = set()
    for row in rows:
        if row[1] != _SYMBOLS:
            continue
        strings = rows[row[6]][4]
        name_at, info_at, section_at = form.symbol_fields
        for symbol in struct.iter_unpack(form.symbol, data[row[4] : row[4] + row[5]]):
            name = _string(data, strings + symbol[name_at])
            if not name or symbol[info_at] >> 4 == _LOCAL:
                continue
            (undefined if symbol[section_at] == _SECTION_UNDEFINED else defined).add(name)
    return ElfObject(sections, frozenset(defined), frozenset(undefined))


def _string(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()

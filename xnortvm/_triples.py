# SPDX-License-Identifier: Apache-2.0
"""Architectures and triples: plain text, so that a board without a compiler knows them too."""

from __future__ import annotations

import re
from typing import NamedTuple

from xnortvm.errors import TargetError, near

_OPERATING_SYSTEMS = re.compile(r"linux|windows|darwin|macosx?|ios|freebsd|netbsd|openbsd|none")

_X86 = (
    r"cmov|sse[234]?|sse4\.[12]|sse4a|ssse3|avx[0-9a-z.]*|fma4?|xop|f16c|bmi2?|lzcnt|popcnt|movbe|"
    r"tbm|gfni|egpr|ndd|nf|cf|zu|ccmp|ppx|push2pop2"
)
_AARCH64 = (
    r"fp-armv8|neon|lse|rdm|rcpc|fullfp16|fp16fml|bf16|dotprod|i8mm|complxnum|fptoint|cssc|mops|"
    r"sve\w*|sme\w*"
)
_ARM = r"v[678]|neon|vfp[234]|fp-armv8|fp16|fullfp16|bf16|dotprod|i8mm|hwdiv-arm"


class Family(NamedTuple):
    """An architecture.

    Attributes
    ----------
    name : str
        As cross compilers call it.
    arch : str
        Regular expression for the first part of its triples.
    triple : str
        What a bare CPU name of this family stands for.
    mcpu : str
        The CPU that a bare triple stands for.
    matters : str
        Regular expression for the features that a compiler uses unasked. Others (memory
        protection, tuning hints) neither keep code from running nor make it faster.
    needs : frozenset of str
        Features without which LLVM cannot make code for this family at all.
    """

    name: str
    arch: str
    triple: str
    mcpu: str
    matters: str
    needs: frozenset[str]


def words(names: str) -> frozenset[str]:
    return frozenset(names.split())


# aarch64 of unknown make is scheduled for the in-order Cortex-A53: out-of-order cores lose about
# 1 % by it, in-order cores gain a factor of 3 over code scheduled for big cores.
FAMILIES = (
    Family(
        "x86_64", "x86_64|amd64", "x86_64-unknown-linux-gnu", "x86-64", _X86, words("64bit sse2")
    ),
    Family(
        "aarch64",
        "aarch64|arm64e?",
        "aarch64-unknown-linux-gnu",
        "cortex-a53",
        _AARCH64,
        words("fp-armv8 neon"),
    ),
    Family(
        "arm",
        r"arm(v[678]\w*)?",
        "armv7l-unknown-linux-gnueabihf",
        "generic",
        _ARM,
        words("vfp2sp"),
    ),
    Family("i686", "i[3-6]86", "i686-unknown-linux-gnu", "i686", _X86, words("")),
)
AUTOMATIC = FAMILIES[:3]  # a bare -mcpu never means 32-bit x86
OTHER = Family("other", "", "", "generic", "", words(""))


def normalize_triple(triple: str) -> str:
    """Return a triple with all its parts: LLVM misreads ``aarch64-linux-gnu`` as lacking an OS.

    Examples
    --------
    >>> normalize_triple("aarch64-linux-gnu")
    'aarch64-unknown-linux-gnu'
    """
    arch, *rest = triple.split("-")
    if rest and not _OPERATING_SYSTEMS.match(rest[0]):
        vendor, rest = rest[0], rest[1:]
    else:
        vendor = "unknown"
    rest = rest or ["linux"]
    if rest == ["linux"]:
        rest = ["linux", "gnueabihf" if family_of(arch).name == "arm" else "gnu"]
    if rest[0] == "linux":
        vendor = "unknown"  # pc, conda and redhat mean the same
    return "-".join([arch, vendor, *rest])


def link_triple(triple: str) -> str:
    """Return a normalised triple as cross compilers are named: ``aarch64-linux-gnu``."""
    arch, vendor, *rest = triple.split("-")
    family = family_of(arch)
    arch = arch if family is OTHER else family.name
    return "-".join([arch, *([] if vendor == "unknown" else [vendor]), *rest])


def family_of(triple: str) -> Family:
    """Return the family that a triple belongs to.

    Raises
    ------
    TargetError
        When LLVM has no such architecture; asking it about one crashes the process.
    """
    arch = triple.partition("-")[0]
    for family in FAMILIES:
        if re.fullmatch(family.arch, arch):
            return family
    from xnortvm._tvm_runtime import RUNTIME_ONLY  # here: known families need no TVM

    if RUNTIME_ONLY:
        return OTHER  # nobody compiles here, so LLVM is neither there to be asked nor to crash
    from xnortvm._tvm import codegen

    others = [str(name) for name in codegen.llvm_get_targets()]
    if arch in others:
        return OTHER
    known = ["x86_64", "aarch64", "armv7l", "i686", *others]
    raise TargetError(
        f"-mtriple={triple} has the unknown architecture {arch!r}"
        f"{near(arch, known)}; triples look like aarch64-linux-gnu"
    )


def that_matter(triple: str, features: frozenset[str]) -> frozenset[str]:
    """Return the features that a compiler uses unasked."""
    matters = re.compile(family_of(triple).matters)
    return frozenset(name for name in features if matters.fullmatch(name))

# SPDX-License-Identifier: Apache-2.0
"""What this machine is, asked of its kernel: a board has no LLVM that could say it."""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path

from xnortvm._triples import normalize_triple

_AT_HWCAP, _AT_HWCAP2 = 16, 26

# LLVM's name of a feature → (which word of the kernel, bit), as in Linux's hwcap.h of arm64.
_AARCH64 = {
    "fp-armv8": (_AT_HWCAP, 0),
    "neon": (_AT_HWCAP, 1),
    "lse": (_AT_HWCAP, 8),
    "fullfp16": (_AT_HWCAP, 10),
    "rdm": (_AT_HWCAP, 12),
    "complxnum": (_AT_HWCAP, 14),
    "rcpc": (_AT_HWCAP, 15),
    "dotprod": (_AT_HWCAP, 20),
    "sve": (_AT_HWCAP, 22),
    "fp16fml": (_AT_HWCAP, 23),
    "sve2": (_AT_HWCAP2, 1),
    "fptoint": (_AT_HWCAP2, 8),
    "i8mm": (_AT_HWCAP2, 13),
    "bf16": (_AT_HWCAP2, 14),
}

# LLVM's name of a feature → Linux's in /proc/cpuinfo, where it is not the same.
_X86 = {
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "lzcnt": "abm",
    "bmi": "bmi1",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512vnni": "avx512_vnni",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512bitalg": "avx512_bitalg",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "avxvnni": "avx_vnni",
}
_SAME = (
    *("sse", "sse2", "ssse3", "sse4a", "popcnt", "avx", "avx2", "fma", "f16c", "bmi2", "movbe"),
    *(
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512dq",
        "avx512cd",
        "avx512vbmi",
        "avx512ifma",
        "gfni",
    ),
)


def triple() -> str:
    """Return the triple of this machine as far as Python knows it."""
    system = "apple-macos" if sys.platform == "darwin" else sys.platform
    return normalize_triple(f"{platform.machine()}-{system}")


def glibc() -> str:
    """Return the version of this machine's glibc, such as ``"2.36"``; empty without glibc."""
    name, version = platform.libc_ver()
    return version if name == "glibc" else ""


def missing_features(features: tuple[str, ...]) -> list[str]:
    """Return those of some features, by LLVM's names, that this CPU is known to lack.

    What the kernel does not report on counts as there: code that needs it says so when it runs.
    """
    there = _READERS.get(platform.machine(), dict)() if sys.platform == "linux" else {}
    return [name for name in features if not there.get(name, True)]


def _aarch64() -> dict[str, bool]:
    read = ctypes.CDLL(None).getauxval
    read.argtypes, read.restype = [ctypes.c_ulong], ctypes.c_ulong
    words = {word: read(word) for word in (_AT_HWCAP, _AT_HWCAP2)}
    return {name: bool(words[word] >> bit & 1) for name, (word, bit) in _AARCH64.items()}


def _x86() -> dict[str, bool]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    flags = text.partition("\nflags")[2].partition("\n")[0].split()
    linux = dict(zip(_SAME, _SAME, strict=True)) | _X86
    return {name: flag in flags for name, flag in linux.items()}


_READERS = {"aarch64": _aarch64, "x86_64": _x86}

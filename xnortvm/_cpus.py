# SPDX-License-Identifier: Apache-2.0
"""What CPUs can do, asked of LLVM: triples, features, instruction sets, and this machine.

LLVM knows every CPU and what each implies, so no list of them is kept here. Three things it does
not do are done here: it does not say which architecture a bare CPU name belongs to (TVM then emits
x86 code for an ARM CPU), it takes the process down for CPUs that cannot run the code asked for,
and the CPU that it names for this machine can promise more than a virtual machine passes on.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from xnortvm._presets import LISTING
from xnortvm._triples import (
    AUTOMATIC,
    family_of,
    link_triple,
    normalize_triple,
    that_matter,
    words,
)
from xnortvm._tvm import TvmTarget, codegen, host_cpu_features
from xnortvm.errors import TargetError, near


class Isa(NamedTuple):
    """An instruction set that schedules are written for: its needs and its vector length."""

    name: str
    families: frozenset[str]
    needs: frozenset[str]
    vector_bits: int


# The first row whose features are all there is the one used.
ISAS = (
    Isa(
        "avx512vpopcntdq",
        words("x86_64 i686"),
        words("avx512f avx512bw avx512vl avx512vpopcntdq"),
        512,
    ),
    Isa("avx512bw", words("x86_64 i686"), words("avx512f avx512bw avx512vl"), 512),
    Isa("avx2", words("x86_64 i686"), words("avx2"), 256),
    Isa("sse4", words("x86_64 i686"), words("sse4.2 popcnt"), 128),
    Isa("sse2", words("x86_64 i686"), words("sse2"), 128),
    Isa("neon", words("aarch64"), words("neon"), 128),
    Isa("neon32", words("arm"), words("neon"), 128),
)
GENERIC = ("generic", 64)


class HostCpu(NamedTuple):
    """This machine: what LLVM calls its CPU, corrected by the features it really has."""

    triple: str
    mcpu: str
    mattr: tuple[str, ...]
    features: frozenset[str]


def find_cpu(mcpu: str) -> str | None:
    """Return the triple that a bare CPU name stands for, None when nothing knows the CPU.

    This machine's architecture comes first, then x86-64, aarch64 and armv7.
    """
    host = host_triple()
    if mcpu.startswith("apple-") and "apple" not in host:
        triples = ["aarch64-apple-macos"]
    else:
        triples = [host, *(family.triple for family in AUTOMATIC)]
    return next((triple for triple in triples if codegen.llvm_is_valid_cpu(mcpu, triple)), None)


def known_cpus(triple: str | None = None) -> list[str]:
    """Return the CPUs that LLVM lists for a triple, or for all triples that a bare CPU can mean."""
    triples = [triple] if triple else [family.triple for family in AUTOMATIC]
    names: set[str] = set()
    for each in triples:
        family_of(each)
        target = TvmTarget({"kind": "llvm", "mtriple": each})
        names.update(str(name) for name in codegen.llvm_get_cpu_archlist(target))
    return sorted(names)


def check_cpu(mcpu: str, triple: str) -> None:
    """Refuse a CPU that LLVM does not know for a triple; TVM would go on with another CPU."""
    family_of(triple)
    if not codegen.llvm_is_valid_cpu(mcpu, triple):
        elsewhere = find_cpu(mcpu)
        hint = (
            f"; it is a CPU of -mtriple={link_triple(elsewhere)}"
            if elsewhere
            else f"{near(mcpu, known_cpus(triple))}; {LISTING}"
        )
        raise TargetError(f"-mtriple={link_triple(triple)} has no CPU called {mcpu!r}{hint}")


def cpu_features(triple: str, mcpu: str, mattr: tuple[str, ...] = ()) -> frozenset[str]:
    """Return every feature that LLVM gives a CPU, `mattr` applied, hints for tuning included."""
    fields = {"kind": "llvm", "mtriple": triple, "mcpu": mcpu, "mattr": list(mattr)}
    return frozenset(str(name) for name in codegen.llvm_get_cpu_features(TvmTarget(fields)))


def check_attributes(triple: str, mcpu: str, mattr: tuple[str, ...]) -> None:
    """Refuse features that LLVM does not know; it would only print a line and go on."""
    known = _all_features(triple)
    for attribute in mattr:
        name = attribute[1:]
        # A few features belong to no CPU: adding one tells whether it exists.
        if name not in known and name not in cpu_features(triple, mcpu, (f"+{name}",)):
            raise TargetError(
                f"-mattr={attribute} is not a feature of -mtriple={link_triple(triple)}"
                f"{near(name, known)}; LLVM's names for features are meant"
            )


@lru_cache
def _all_features(triple: str) -> frozenset[str]:
    return frozenset().union(*(cpu_features(triple, mcpu) for mcpu in known_cpus(triple)))


def check_possible(triple: str, mcpu: str, features: frozenset[str], source: str) -> None:
    """Refuse what would take the process down inside LLVM."""
    missing = sorted(family_of(triple).needs - features)
    if missing:
        raise TargetError(
            f"the target {source} cannot be compiled for: {mcpu} lacks {', '.join(missing)}, "
            f"which code for {link_triple(triple)} needs; choose another CPU or triple"
        )
    if "noarm" in features:
        raise TargetError(
            f"the target {source} cannot be compiled for: {mcpu} is a microcontroller; "
            "xnortvm needs a Cortex-A class CPU"
        )


def isa_of(triple: str, features: frozenset[str]) -> tuple[str, int]:
    """Return the best instruction set of the table and its vector length in bits."""
    family = family_of(triple)
    for isa in ISAS:
        if family.name in isa.families and isa.needs <= features:
            return isa.name, isa.vector_bits
    return GENERIC


def host_triple() -> str:
    """Return the triple of this machine."""
    return normalize_triple(str(codegen.llvm_get_system_triple()))


@lru_cache
def host_cpu() -> HostCpu:
    """Return this machine's CPU with exactly the features that it and its kernel offer."""
    triple = host_triple()
    mcpu = str(codegen.llvm_get_system_cpu())
    if not codegen.llvm_is_valid_cpu(mcpu, triple):
        mcpu = family_of(triple).mcpu
    return correct_host(triple, mcpu, host_cpu_features())


def correct_host(triple: str, mcpu: str, real: dict[str, bool]) -> HostCpu:
    """Correct a CPU name by the features that the machine really has.

    Parameters
    ----------
    triple, mcpu : str
        What LLVM calls the machine.
    real : dict of str to bool
        What the CPU reports about itself. On some systems only what is there is listed, so that
        a feature which is not mentioned counts as the CPU's name says.

    Returns
    -------
    HostCpu
        The name with the features to switch off and on.
    """
    named = that_matter(triple, cpu_features(triple, mcpu))
    there = that_matter(triple, frozenset(name for name, present in real.items() if present))
    absent = sorted(name for name in named if real.get(name) is False)
    extra = sorted(there - named)
    mattr = (*(f"-{name}" for name in absent), *(f"+{name}" for name in extra))
    features = that_matter(triple, cpu_features(triple, mcpu, mattr))
    return HostCpu(triple, mcpu, mattr, features)

# SPDX-License-Identifier: Apache-2.0
"""Targets: ``"llvm -mcpu=cortex-a72"`` | preset | dict | TVM target → what schedules need to know.

Examples
--------
>>> from xnortvm.target import resolve
>>> pi = resolve("rpi4")
>>> pi.isa, pi.vector_bits, pi.link
('neon', 128, 'aarch64-linux-gnu')
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from xnortvm import _cpus
from xnortvm._cuda_archs import ARCHES, arch_of, check_arch, runs_on
from xnortvm._presets import PRESETS, Preset
from xnortvm._target_spec import Spec, parse
from xnortvm._triples import family_of, link_triple, normalize_triple, that_matter
from xnortvm._tvm import TvmTarget, cuda_capability
from xnortvm.errors import TargetError, near

__all__ = ["ARCHES", "Target", "cpus", "resolve", "targets"]


@dataclass(frozen=True)
class Target:
    """A target with everything that is derived from it.

    Attributes
    ----------
    name : str
        The canonical familiar string; ``resolve(t.name)`` makes the same code as `t`.
    kind : str
        ``"llvm"`` for CPUs, ``"cuda"`` for GPUs.
    preset : str or None
        The row of `targets()` that was asked for; plain ``"llvm"`` is ``"host"``.
    triple, mcpu : str
        What the CPU code is made for; of a CUDA target, what its host side is made for.
    features : frozenset of str
        The features that the code generator may use, by LLVM's names; of a CUDA target, the
        binary instructions of its tensor and CUDA cores.
    isa : str
        The instruction set that schedules are chosen by: ``avx512vpopcntdq``, ``avx512bw``,
        ``avx2``, ``sse4``, ``sse2``, ``neon`` (aarch64), ``neon32`` (armv7), ``generic``, ``cuda``.
    vector_bits : int
        Bits of one vector register; of one lane for CUDA, 64 for ``generic``.
    num_threads : int
        Threads of the CPU that kernels may use.
    is_host : bool
        Whether this machine can run the code.
    link : str or None
        The triple to cross-link for, None where this machine's own compiler links.
    arch : str
        Of a CUDA target, such as ``"sm_90a"``; "" otherwise.
    cpu_features : frozenset of str
        Of a CUDA target, the features of the CPU of its host side.
    tvm : tvm.target.Target
        What TVM compiles for.
    """

    name: str
    kind: str
    preset: str | None
    triple: str
    mcpu: str
    features: frozenset[str]
    isa: str
    vector_bits: int
    num_threads: int
    is_host: bool
    link: str | None
    tvm: Any = field(repr=False, compare=False)
    arch: str = ""
    cpu_features: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Return everything but the TVM target as a JSON object."""
        return {
            "name": self.name,
            "kind": self.kind,
            "preset": self.preset,
            "triple": self.triple,
            "mcpu": self.mcpu,
            "features": sorted(self.features),
            "isa": self.isa,
            "vector_bits": self.vector_bits,
            "num_threads": self.num_threads,
            "is_host": self.is_host,
            "link": self.link,
            "arch": self.arch,
        }


# Limits that TVM's GPU passes ask for and that every architecture of the table has.
_CUDA_LIMITS = {
    "max_num_threads": 1024,
    "max_shared_memory_per_block": 49152,
    "max_threads_per_block": 1024,
    "registers_per_block": 65536,
    "thread_warp_size": 32,
}


def resolve(
    target: str | Mapping[str, Any] | Target | Any = "llvm", *, num_threads: int | None = None
) -> Target:
    """Turn any spelling of a target into a `Target`.

    Parameters
    ----------
    target : str, mapping, tvm.target.Target or Target
        ``"llvm"`` is this machine with all its features. A bare ``-mcpu`` decides the
        architecture: ``"llvm -mcpu=cortex-a72"`` is aarch64 on every machine.
    num_threads : int, optional
        Threads that kernels may use. It wins over ``-num-cores`` of the target; without either
        it is 1.

    Returns
    -------
    Target
        What schedules, code generation and linking need.

    Raises
    ------
    TargetError
        When the target is unknown or impossible, with the nearest known names.

    Examples
    --------
    >>> resolve("llvm -mcpu=cortex-a72").triple
    'aarch64-unknown-linux-gnu'
    >>> resolve("llvm -mcpu=znver4 -mattr=-avx512vpopcntdq").isa
    'avx512bw'
    """
    if num_threads is not None and (
        not isinstance(num_threads, int) or isinstance(num_threads, bool) or num_threads < 1
    ):
        raise TargetError(f"num_threads={num_threads!r} is not a whole number of at least 1")
    if isinstance(target, Target):
        again = resolve(target.name, num_threads=num_threads or target.num_threads)
        return replace(again, preset=target.preset)
    spec = parse(target)
    return _RESOLVERS[spec.kind](spec, num_threads or spec.options.get("num-cores", 1))


def targets() -> dict[str, Preset]:
    """Return the presets that ``target=`` accepts by name.

    Examples
    --------
    >>> targets()["rpi4"].spec
    'llvm -mcpu=cortex-a72'
    """
    return dict(PRESETS)


def cpus(triple: str | None = None) -> list[str]:
    """Return the names that ``-mcpu=`` accepts, for one triple or for x86-64, aarch64 and armv7."""
    return _cpus.known_cpus(normalize_triple(triple) if triple else None)


def _resolve_llvm(spec: Spec, num_threads: int) -> Target:
    options = dict(spec.options)
    triple, mcpu, mattr = _cpu_of(spec)
    _cpus.check_cpu(mcpu, triple)
    _cpus.check_attributes(triple, mcpu, mattr)
    everything = _cpus.cpu_features(triple, mcpu, mattr)
    _cpus.check_possible(triple, mcpu, everything, spec.source)
    if triple.endswith("hf"):
        options.setdefault("mfloat-abi", "hard")  # GNU ld refuses objects that do not say so

    features = that_matter(triple, everything)
    isa, vector_bits = _cpus.isa_of(triple, features)
    host = _cpus.host_cpu()
    foreign = link_triple(triple) != link_triple(host.triple)
    options.update({"mtriple": triple, "mcpu": mcpu})
    options.update({"mattr": list(mattr)} if mattr else {})
    name = _name("llvm", options)
    is_this_machine = (triple, mcpu, mattr) == (host.triple, host.mcpu, host.mattr)
    return Target(
        name=name,
        kind="llvm",
        preset=spec.preset or ("host" if is_this_machine and _is_plain(spec) else None),
        triple=triple,
        mcpu=mcpu,
        features=features,
        isa=isa,
        vector_bits=vector_bits,
        num_threads=num_threads,
        is_host=not foreign and features <= host.features,
        link=link_triple(triple) if foreign else None,
        tvm=TvmTarget({"kind": "llvm", **options, "num-cores": num_threads}),
    )


def _is_plain(spec: Spec) -> bool:
    return spec.options.keys() <= {"num-cores", "mtriple"}


def _cpu_of(spec: Spec) -> tuple[str, str, tuple[str, ...]]:
    """Complete triple, CPU and features of a CPU target from what was given of them."""
    mcpu, mtriple = spec.options.get("mcpu"), spec.options.get("mtriple")
    mattr = spec.options.get("mattr", ())
    host = _cpus.host_cpu()
    if mtriple is not None:
        triple = normalize_triple(mtriple)
        return triple, mcpu or family_of(triple).mcpu, mattr
    if mcpu is None:
        return host.triple, host.mcpu, (*host.mattr, *mattr)
    found = _cpus.find_cpu(mcpu)
    if found is None:
        if mcpu in PRESETS:
            raise TargetError(
                f"the target {spec.source} has the preset {mcpu!r} for a CPU; pass {mcpu!r} alone"
            )
        raise TargetError(
            f"the target {spec.source} has the unknown CPU {mcpu!r}"
            f"{near(mcpu, _cpus.known_cpus())}; `xnortvm targets --cpus` lists the CPUs of "
            "x86-64, aarch64 and armv7, others need -mtriple as well"
        )
    return found, mcpu, mattr


def _resolve_cuda(spec: Spec, num_threads: int) -> Target:
    options = dict(spec.options)
    host = resolve(options.pop("host", "llvm"), num_threads=num_threads)
    if host.kind != "llvm":
        raise TargetError(f"the host side of the target {spec.source} has to be a CPU")
    here = cuda_capability()
    arch = options.get("arch")
    if arch is None:
        if here is None:
            raise TargetError(
                f"the target {spec.source} means the GPU of this machine, and CUDA finds none; "
                "name one, such as 'cuda -arch=sm_90' or 'h100'"
            )
        arch = arch_of(here)
    check_arch(arch, spec.source)
    options["arch"] = arch
    options.pop("num-cores", None)
    fields = {"kind": "cuda", **_CUDA_LIMITS, **options}
    named = {
        option: value for option, value in options.items() if value != _CUDA_LIMITS.get(option)
    }
    if host.name != resolve("llvm").name:
        named["host"] = host.preset or host.name
    return Target(
        name=_name("cuda", named),
        kind="cuda",
        preset=spec.preset,
        triple=host.triple,
        mcpu=host.mcpu,
        features=ARCHES[arch].features,
        cpu_features=host.features,
        isa="cuda",
        vector_bits=32,
        num_threads=num_threads,
        is_host=host.is_host and here is not None and runs_on(arch, here),
        link=host.link,
        tvm=TvmTarget(fields, host=host.tvm),
        arch=arch,
    )


def _name(kind: str, options: Mapping[str, Any]) -> str:
    """Spell a target in the familiar way; the thread count is not part of the name."""
    words = [kind]
    for option, value in sorted(options.items(), key=lambda item: (_rank(item[0]), item[0])):
        if option != "num-cores":
            text = ",".join(value) if isinstance(value, list) else str(value)
            words.append(f'-{option}="{text}"' if " " in text else f"-{option}={text}")
    return " ".join(words)


def _rank(option: str) -> int:
    order = ("mtriple", "mcpu", "mattr", "arch", "host")
    return order.index(option) if option in order else len(order)


_RESOLVERS = {"llvm": _resolve_llvm, "cuda": _resolve_cuda}

# SPDX-License-Identifier: Apache-2.0
"""What one core of this machine can do at most: measured once, kept in the user's cache."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import os
import platform
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnortvm import __version__
from xnortvm._cache import user_cache
from xnortvm._tvm import installed_version

if TYPE_CHECKING:
    from xnortvm.schedules.isa import Isa
    from xnortvm.target import Target

#: Goes up when the kernels of `xnortvm.tools.limits` change what they measure.
LIMITS_VERSION = 2

#: CPUs that have an instruction set and nothing beyond it; the host has more.
_RESTRICTED = {
    "avx512bw": "skylake-avx512",
    "avx2": "haswell",
    "sse4": "nehalem",
    "sse2": "x86-64",
    "neon": "cortex-a72",
}
_DEFAULT_CACHES = {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}

_log = logging.getLogger("xnortvm.tools.bench")


@dataclass(frozen=True)
class Machine:
    """Limits of one core.

    Attributes
    ----------
    cpu : str
        Name of the processor.
    date : str
        When it was measured.
    isa : str
        The best instruction set that kernels are written for.
    hertz : float
        Cycles a second.
    caches : dict of str to int
        Bytes of each level that one core can use.
    macs : dict of str to dict of str to float
        By instruction set and step (see `xnortvm.tools.limits.STEPS`), multiply-accumulates a
        second.
    dots : dict of str to float
        The same of dot-product instructions, where there are any.
    read : dict of str to float
        Bytes a second from each level and from memory.
    """

    cpu: str
    date: str
    isa: str
    hertz: float
    caches: dict[str, int]
    macs: dict[str, dict[str, float]]
    dots: dict[str, float]
    read: dict[str, float]

    def binary(self, isa: str) -> float:
        """Return the most binary multiply-accumulates a second with an instruction set."""
        steps = self.macs[isa]
        return max(rate for name, rate in steps.items() if name != "fp32")

    def fp32(self, isa: str) -> float:
        """Return the most float32 multiply-accumulates a second with an instruction set."""
        return self.macs[isa]["fp32"]

    def level_of(self, size: float) -> str:
        """Return the smallest level that holds so many bytes."""
        fitting = (level for level, room in self.caches.items() if size <= room)
        return next(fitting, "memory")

    def to_json(self) -> dict[str, Any]:
        """Return plain data that ``Machine(**data)`` reads."""
        return asdict(self)


def limits_of_this_machine(*, refresh: bool = False) -> Machine:
    """Return the limits from the cache, or measure them, which takes about 10 seconds.

    The cache is keyed by processor, versions and what the kernels measure; it lies in
    ``$XDG_CACHE_HOME/xnortvm``, by default ``~/.cache/xnortvm``.

    Parameters
    ----------
    refresh : bool
        Measure again.
    """
    path = cache_path()
    if not refresh:
        try:
            return Machine(**json.loads(path.read_text()))
        except FileNotFoundError:
            pass
        except (OSError, TypeError, ValueError) as error:
            _log.warning("%s cannot be read and is replaced: %s", path, error)
    _log.info("measuring what this machine can do, once")
    machine = measure()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(json.dumps(machine.to_json(), indent=1))
        os.replace(file.name, path)
    except OSError as error:
        _log.warning("the limits of this machine cannot be kept in %s: %s", path, error)
    return machine


def cache_path() -> Path:
    """Return the file that holds the limits of this machine."""
    versions = [__version__, installed_version("apache-tvm") or "", str(LIMITS_VERSION)]
    key = hashlib.sha256("\n".join([cpu_name(), *versions]).encode()).hexdigest()[:12]
    return user_cache() / f"machine-{key}.json"


def cpu_name() -> str:
    """Return what this machine calls its processor."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return str(names[0]).strip() if names else platform.processor() or platform.machine()


def measure() -> Machine:
    """Measure the limits of one core; the caller pins this process."""
    from xnortvm.target import resolve
    from xnortvm.tools import limits

    here = resolve("llvm")
    macs = {}
    for isa, target in instruction_sets():
        names = limits.steps_of(isa, target)
        macs[isa.name] = {name: limits.measure_step(name, isa, target) for name in names}
    best = next(iter(instruction_sets()))[0]
    caches = cache_sizes()
    sizes = {level: _inside(caches, level) for level in caches}
    sizes["memory"] = max(8 * max(caches.values()), 256 << 20)
    return Machine(
        cpu=f"{cpu_name()} ({here.mcpu})",
        date=dt.date.today().isoformat(),
        isa=best.name,
        hertz=limits.measure_clock(here),
        caches=caches,
        macs=macs,
        dots={
            name: limits.measure_dot(name, here)
            for name, dot in limits.DOTS.items()
            if dot.feature in here.features
        },
        read={level: limits.measure_read(size, best, here) for level, size in sizes.items()},
    )


def _inside(caches: dict[str, int], level: str) -> int:
    """Return a size that fits a level and none above it."""
    above = [size for size in caches.values() if size < caches[level]]
    return min(caches[level] // 2, 8 * max(above)) if above else caches[level] // 2


def instruction_sets() -> list[tuple[Isa, Target]]:
    """Return the instruction sets that this machine runs, the best first."""
    from xnortvm.errors import TargetError
    from xnortvm.schedules import isa_of
    from xnortvm.target import resolve

    here = resolve("llvm")
    found = [(isa_of(here), here)]
    for name, mcpu in _RESTRICTED.items():
        try:
            target = resolve(f"llvm -mcpu={mcpu}")
        except TargetError:
            continue
        if name != here.isa and target.is_host and target.isa == name:
            found.append((isa_of(target), target))
    return found


def cache_sizes() -> dict[str, int]:
    """Return the data caches of a core as Linux states them, else common sizes."""
    root, found = Path("/sys/devices/system/cpu/cpu0/cache"), {}
    units = {"K": 1 << 10, "M": 1 << 20}
    for index in sorted(root.glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            level = (index / "level").read_text().strip()
            size = (index / "size").read_text().strip()
        except OSError:
            continue
        if kind != "Instruction" and size[-1] in units:
            found[f"L{level}"] = int(size[:-1]) * units[size[-1]]
    return found or dict(_DEFAULT_CACHES)

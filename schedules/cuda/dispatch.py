# SPDX-License-Identifier: Apache-2.0
"""Which family of kernels computes a layer: the table of architecture and shape.

A family is a template. `FAMILIES` lists them from the fastest to the one that takes everything; the
first that an architecture has and that takes the shape makes the kernel. The report shows its name
in the column of the schedule.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from xnortvm._cuda_archs import ARCHES
from xnortvm.errors import CompileError
from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda import mma, wgmma_conv, wgmma_gemm
from xnortvm.schedules.cuda.choices import tiles_of
from xnortvm.schedules.cuda.decisions import GpuDecisions
from xnortvm.schedules.cuda.direct import direct
from xnortvm.schedules.cuda.epilogue import (
    Anchor,
    NotElementwiseError,
    narrowed,
    read_anchor,
)
from xnortvm.schedules.cuda.fallback import fallback
from xnortvm.schedules.cuda.gemv import gemv
from xnortvm.schedules.cuda.gemv import takes as takes_gemv
from xnortvm.schedules.cuda.tile import takes as takes_tile
from xnortvm.schedules.cuda.tile import tile

log = logging.getLogger("xnortvm")

#: Attribute of a function: the names of its layers in the user's model.
LAYER = "xnortvm.layer"


@dataclass(frozen=True)
class Family:
    """A template and what it is for.

    Attributes
    ----------
    name : str
    needs : str
        A feature of `xnortvm._cuda_archs`; "" where every architecture will do.
    takes : callable
        From the anchor, None without one, to whether the template computes such a shape.
    make : callable
        From a function with 32-bit indices, the architecture and a tile, that of the rule without,
        to the kernel; raises `NotElementwiseError` where the epilogue does not fit.
    """

    name: str
    needs: str
    takes: Callable[[Anchor | None], bool]
    make: Callable[..., Any]


FAMILIES: tuple[Family, ...] = (
    Family("gemv", "", takes_gemv, lambda func, arch, _=None: gemv(func, arch)),
    Family("wgmma_conv", "wgmma_b1_and", wgmma_conv.takes, wgmma_conv.make),
    Family("wgmma_gemm", "wgmma_b1_and", wgmma_gemm.takes, wgmma_gemm.make),
    Family("mma_xor", "mma_b1_xor", mma.takes, mma.make),
    Family("mma_and", "mma_b1_and", mma.takes, mma.make),
    Family("tile", "", takes_tile, tile),
    Family("direct", "", lambda anchor: True, lambda func, _arch, _=None: direct(func)),
    Family("fallback", "", lambda anchor: True, lambda func, arch, _=None: fallback(func, arch)),
)
#: Families that are no choice where another takes the shape: they compute anything, slowly.
_ANYTHING = frozenset({"direct", "fallback"})
#: Families that refuse what they cannot compute; what they take is what they are good for.
_TENSOR_CORES = frozenset({"wgmma_conv", "wgmma_gemm", "mma_xor", "mma_and"})


_LEFT_OUT: ContextVar[frozenset[str]] = ContextVar("families left out", default=frozenset())
_TILE: ContextVar[tuple[str, Any]] = ContextVar("a family's tile", default=("", None))


def families_for(anchor: Anchor | None, arch: str) -> list[Family]:
    """Return the families that an architecture has for a shape, the fastest first."""
    features = ARCHES[arch].features
    return [
        family
        for family in FAMILIES
        if family.name not in _LEFT_OUT.get()
        if (not family.needs or family.needs in features) and family.takes(anchor)
    ]


@contextmanager
def without(names: Iterable[str]) -> Iterator[None]:
    """Compile without some families, to check and to time those that come after them."""
    token = _LEFT_OUT.set(_LEFT_OUT.get().union(names))
    try:
        yield
    finally:
        _LEFT_OUT.reset(token)


@contextmanager
def with_tile(family: str, tile: Any) -> Iterator[None]:
    """Compile a family's kernels with a tile of its own, to check and to time it."""
    token = _TILE.set((family, tile))
    try:
        yield
    finally:
        _TILE.reset(token)


def legal(func: Any, arch: str) -> list[GpuDecisions]:
    """Return the families and tiles that compute a function, the rule's first.

    Float sums are left to the family of the rule: another adds in another order and rounds
    differently.

    Parameters
    ----------
    func : tirx.PrimFunc
        As `FuseTIR` leaves it.
    arch : str
    """
    func = narrowed(func)
    anchor, problem = _sum_of(func)
    if problem is None:
        return []
    found: list[GpuDecisions] = []
    for family in _able(anchor, arch):
        if found and (family.name in _ANYTHING or not problem.packed):
            continue
        with suppress(NotElementwiseError):
            family.make(func, arch)
            tiles = tiles_of(family.name, problem)
            found += [GpuDecisions.of(family.name, tile) for tile in tiles]
    return found


def make_wanted(func: Any, arch: str, wanted: GpuDecisions) -> Any:
    """Return the kernel of a function by decisions, None where they are not legal."""
    func = narrowed(func)
    anchor, problem = _sum_of(func)
    for family in _able(anchor, arch):
        if problem is None or family.name != wanted.family:
            continue
        with suppress(NotElementwiseError):
            for tile in tiles_of(family.name, problem):
                if GpuDecisions.of(family.name, tile) == wanted:
                    return family.make(func, arch, tile)
    return None


def _able(anchor: Anchor | None, arch: str) -> list[Family]:
    """Return what may compute a shape: the rule's families, then those meant for larger shapes."""
    features = ARCHES[arch].features
    large = [
        family
        for family in FAMILIES
        if family.name in _TENSOR_CORES - _LEFT_OUT.get() and family.needs in features
    ]
    return list(dict.fromkeys([*families_for(anchor, arch), *large]))


def make_kernel(func: Any, arch: str) -> tuple[Any, str]:
    """Return the kernel of a function by the rule, and the name of its family.

    Parameters
    ----------
    func : tirx.PrimFunc
        As `FuseTIR` leaves it.
    arch : str
        Such as ``"sm_90a"``.

    Raises
    ------
    CompileError
        When no family takes it.
    """
    func = narrowed(func)
    why = ""
    tiled, *wanted = _TILE.get()
    for family in families_for(_sum_of(func)[0], arch):
        try:
            return family.make(func, arch, *(wanted if family.name == tiled else ())), family.name
        except NotElementwiseError as error:
            why = str(error)
            log.debug("%s does not apply: %s", family.name, error)
    layers = ", ".join(map(str, (func.attrs or {}).get(LAYER, []))) or "an operator"
    raise CompileError(
        f"no kernel for {arch} computes {layers}: {why}; compile the model for a CPU, or compute "
        "this part outside of it"
    )


def _sum_of(func: Any) -> tuple[Anchor | None, Problem | None]:
    """Return the anchor of a function and what it sums up, None where there is none."""
    try:
        anchor = read_anchor(func)
    except NotElementwiseError:
        return None, None
    return anchor, anchor.problem or anchor.floats

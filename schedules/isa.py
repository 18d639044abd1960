# SPDX-License-Identifier: Apache-2.0
"""What kernels need to know of an instruction set: one row each.

The legaliser reads the lanes (weights are blocked for them) and the form of the popcount; the
schedule rules read the size of the register file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from xnortvm.errors import TargetError

if TYPE_CHECKING:
    from xnortvm.target import Target

#: Forms of the packed sum and their columns of `Isa`, which are "" where there is none; the others
#: are named by `Isa.popcount`.
OWN_COLUMNS = {"pairwise": "pairwise", "paired": "pairwise", "table": "table"}


@dataclass(frozen=True)
class Isa:
    """One instruction set.

    Attributes
    ----------
    name : str
        ``Target.isa``.
    vector_bits, vector_registers : int
        Width of one vector register and how many there are.
    popcount : str
        ``"word"``: vector popcount of 32-bit lanes; ``"byte"``: popcount of bytes, added in byte
        lanes for at most 31 words and then widened; ``"plain"``: weights as they are packed, for
        kernels that are no loop nests.
    sum_bytes : str
        How byte lanes are widened, see `xnortvm.ops.intrinsics.sum_bytes`.
    table : str
        How popcounts are looked up where several pixels share the weights, see
        `xnortvm.ops.intrinsics.table_popcount`; "" where counting is faster.
    pairwise : str
        How the bits of whole vectors are counted, see
        `xnortvm.ops.intrinsics_pairwise.pairwise_popcount`; "" where words are counted.
    pack : str
        How signs become bits, see `xnortvm.ops.intrinsics_pack.pack_word`.
    packed_registers : int
        Registers for the accumulators and weights of a packed kernel; the others hold constants
        and intermediate results.
    float_registers : int
        The same for float kernels: what LLVM was seen to keep in registers.
    float_columns : int
        Float convolutions compute rows of a multiple of so many pixels, so that a tile with
        enough accumulators divides them.
    steps : int
        Float sums of maps of at least so many pixels are computed in steps, see
        `xnortvm.schedules.steps`; 0 is for none.
    """

    name: str
    vector_bits: int
    vector_registers: int
    popcount: str
    sum_bytes: str
    table: str
    pairwise: str
    pack: str
    packed_registers: int
    float_registers: int
    float_columns: int
    steps: int = 0

    def registers(self, form: str) -> int:
        """Return how many registers the accumulators and weights of a kernel may take."""
        return self.float_registers if form == "float" else self.packed_registers

    @property
    def forms(self) -> tuple[str, ...]:
        """Forms of the packed sum that there are, one of each column."""
        return (*(name for name in ("pairwise", "table") if getattr(self, name)), self.popcount)

    def counting(self, form: str) -> Isa:
        """Return the row with only the column of one form."""
        kept = OWN_COLUMNS.get(form, "")
        dropped: dict[str, Any] = {name: "" for name in OWN_COLUMNS.values() if name != kept}
        return replace(self, **dropped)

    @property
    def lanes(self) -> int:
        """How many 32-bit lanes a vector has."""
        return self.vector_bits // 32


ISAS = {
    isa.name: isa
    for isa in (
        Isa("avx512vpopcntdq", 512, 32, "word", "shifts", "", "", "mask16", 20, 31, 1),
        Isa("avx512bw", 512, 32, "byte", "maddubs", "pshufb", "", "mask16", 20, 31, 1),
        Isa("avx2", 256, 16, "byte", "maddubs", "pshufb", "", "movmsk8", 12, 10, 4),
        Isa("sse4", 128, 16, "byte", "maddubs", "pshufb", "", "movmsk4", 12, 10, 4),
        Isa("sse2", 128, 16, "byte", "shifts", "", "", "movmsk4", 8, 10, 4),
        Isa("neon", 128, 32, "byte", "uaddlp", "", "addp", "addp", 24, 31, 1),
        Isa("neon32", 128, 16, "byte", "shifts", "", "", "reduce4", 10, 10, 4),
        Isa("generic", 128, 16, "byte", "shifts", "", "", "reduce4", 10, 10, 4),
    )
}

#: By instruction set and core, in what it differs from the row of its instruction set.
CORES: dict[tuple[str, str], dict[str, Any]] = {
    ("neon", "cortex-a53"): {"steps": 1},
    ("neon", "cortex-a55"): {"steps": 2},
}


@dataclass(frozen=True)
class Gpu(Isa):
    """A CUDA architecture: its kernels are templates (`xnortvm.schedules.cuda`), not loop nests.

    Attributes
    ----------
    arch : str
        Such as ``"sm_90a"``.
    """

    arch: str = ""


def gpu(arch: str) -> Gpu:
    """Return the row of a CUDA architecture: a lane is a thread's 32-bit register."""
    return Gpu("cuda", 32, 255, "plain", "", "", "", "ballot", 64, 64, 1, arch=arch)


def isa_of(target: Target) -> Isa:
    """Return the row of a target's instruction set, as its core wants it.

    Raises
    ------
    TargetError
        When no kernels are written for it.
    """
    if target.kind == "cuda":
        return gpu(target.arch)
    if target.isa not in ISAS:
        raise TargetError(
            f"{target.name} cannot be compiled for: there are no kernels for {target.isa} yet; "
            f"use a CPU target ({', '.join(ISAS)})"
        )
    return replace(ISAS[target.isa], **CORES.get((target.isa, target.mcpu), {}))

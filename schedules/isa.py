# SPDX-License-Identifier: Apache-2.0
"""What kernels need to know of an instruction set: one row each.

The legaliser reads the lanes (weights are blocked for them) and the form of the popcount; the
schedule rules read the size of the register file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xnortvm.target import Target


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
        lanes for at most 31 words and then widened.
    sum_bytes : str
        How byte lanes are widened, see `xnortvm.ops.intrinsics.sum_bytes`.
    pack : str
        How signs become bits, see `xnortvm.ops.intrinsics.pack_word`.
    packed_tile : int
        Largest number of vector accumulators of a packed kernel that LLVM keeps in registers.
    float_tile : int
        The same for float kernels.
    """

    name: str
    vector_bits: int
    vector_registers: int
    popcount: str
    sum_bytes: str
    pack: str
    packed_tile: int
    float_tile: int

    @property
    def lanes(self) -> int:
        """How many 32-bit lanes a vector has."""
        return self.vector_bits // 32


ISAS = {
    isa.name: isa
    for isa in (
        Isa("avx512vpopcntdq", 512, 32, "word", "shifts", "movmsk8", 14, 28),
        Isa("avx512bw", 512, 32, "byte", "maddubs", "movmsk8", 14, 28),
        Isa("avx2", 256, 16, "byte", "maddubs", "movmsk8", 8, 12),
        Isa("sse4", 128, 16, "byte", "maddubs", "movmsk4", 8, 12),
        Isa("sse2", 128, 16, "byte", "shifts", "movmsk4", 6, 12),
        Isa("neon", 128, 32, "byte", "uaddlp", "reduce4", 16, 24),
        Isa("neon32", 128, 16, "byte", "shifts", "reduce4", 8, 10),
        Isa("generic", 128, 16, "byte", "shifts", "reduce4", 8, 8),
    )
}


def isa_of(target: Target) -> Isa:
    """Return the row of a target's instruction set."""
    return ISAS[target.isa]

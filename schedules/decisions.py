# SPDX-License-Identifier: Apache-2.0
"""What a schedule rule decides of a convolution-like kernel, as data.

The rule picks one of the legal decisions by its table of costs; tuning measures others of the same
list. Decisions are plain numbers, so that they can be recorded and applied again:

``form``
    How differing bits are counted, ``"float"`` for a float kernel: a choice where the instruction
    set has more than one (`isa.forms`).
``width``
    Columns of the map that are computed; packed maps may be computed a little wider than they are.
    0 leaves form and width to the rule: the rest is taken where it suits what the rule chose.
``tile``, ``block``
    The register tile, and the vectors in one block of output channels.

Form and width are decided when an operator becomes TIR (`apply_to_isa`, the attributes "form" and
"width" of its call), tile and block when the kernel is scheduled (the attribute `DECISIONS`).

Kernels for GPUs have decisions of their own (`xnortvm.schedules.cuda.decisions`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from xnortvm.schedules.cuda.decisions import GpuDecisions
from xnortvm.schedules.tiling import COSTS, Costs, Tile, choose_tile, suits, tiles

if TYPE_CHECKING:
    from xnortvm.schedules.isa import Isa

#: Attribute of a kernel: its decisions as JSON. Without it the rule decides.
DECISIONS = "xnortvm.decisions"
#: Attribute of a kernel: where they come from, such as "tuned".
ORIGIN = "xnortvm.decisions_from"
#: Attribute of a kernel with decisions: what the tuner knows it by, as JSON.
DECIDED_KEY = "xnortvm.decisions_for"


@dataclass(frozen=True)
class Decisions:
    """One legal way to compute a kernel; see the module for the fields."""

    form: str
    width: int
    tile: Tile
    block: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "form": self.form,
            "width": self.width,
            "tile": list(self.tile),
            "block": self.block,
        }

    @classmethod
    def from_json(cls, data: Any) -> Decisions:
        """Return the decisions that `to_json` described.

        Raises
        ------
        ValueError
            When the data are something else.
        """
        try:
            rows, columns, vectors = (int(size) for size in data["tile"])
            return cls(
                str(data["form"]),
                int(data["width"]),
                Tile(rows, columns, vectors),
                int(data["block"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{data!r} are no decisions of a kernel") from error

    @property
    def call_attributes(self) -> dict[str, Any]:
        """What the call of the operator has to carry: form and width where they are decided."""
        return {"form": self.form, "width": self.width} if self.width else {}

    def transferred(self) -> Decisions:
        """Return what of these another kernel can take: width 0 is its rule's."""
        return replace(self, width=0)

    def beside(self, rule: Any) -> Decisions:
        """Return what a search of a kernel alike tries first, with this rule."""
        return replace(self, width=rule.width)

    def __str__(self) -> str:
        tile = "×".join(map(str, self.tile))
        return f"{self.form}, {tile} of width {self.width}, blocks of {self.block}"


class Choices(NamedTuple):
    """What there is to decide for one kernel whose form and width are fixed.

    Attributes
    ----------
    form : str
    rows, columns : int
        The map that is computed.
    blocks : tuple of int
        Sizes in vectors that a block of output channels may have.
    lanes : int
        Channels of one vector.
    isa : Isa
    costs : Costs
        By which the rule chooses.
    """

    form: str
    rows: int
    columns: int
    blocks: tuple[int, ...]
    lanes: int
    isa: Isa
    costs: Costs

    def rule(self) -> Decisions:
        """Return what the rule picks."""
        registers = self.isa.registers(self.form)
        tile, block = choose_tile(
            self.rows, self.columns, self.blocks, self.lanes, registers, self.form, self.costs
        )
        return Decisions(self.form, self.columns, tile, block)

    def legal(self) -> Iterator[Decisions]:
        """Yield all decisions: tiles that divide the map and fit the register file and the stack.

        The whole register file: where the rule keeps some registers for what the inner loop
        computes, a measurement knows better.
        """
        registers = max(self.isa.vector_registers, self.isa.registers(self.form))
        for tile, block in tiles(self.rows, self.columns, self.blocks, registers, COSTS[self.form]):
            if suits(tile, block, self.lanes, self.form):
                yield Decisions(self.form, self.columns, tile, block)

    def allows(self, decisions: Decisions) -> bool:
        """Return whether decisions are legal for this kernel."""
        return decisions in self.legal()

    def pick(self, wanted: Decisions | None) -> tuple[Decisions, bool]:
        """Return the wanted decisions if they are legal, else the rule's; and which it was."""
        if wanted is not None and wanted.width == 0:
            wanted = replace(wanted, width=self.columns)
        if wanted is not None and self.allows(wanted):
            return wanted, True
        return self.rule(), False


#: Of a loop nest, or of a kernel for GPUs.
AnyDecisions = Decisions | GpuDecisions


def read_decisions(data: Any) -> AnyDecisions:
    """Return the decisions that `to_json` of either kind described.

    Raises
    ------
    ValueError
        When the data are something else.
    """
    is_gpu = isinstance(data, dict) and "family" in data
    return GpuDecisions.from_json(data) if is_gpu else Decisions.from_json(data)


def decisions_of(func: Any) -> AnyDecisions | None:
    """Return the decisions that a PrimFunc carries, None when the rule decides."""
    text = (func.attrs or {}).get(DECISIONS)
    return None if text is None else read_decisions(json.loads(str(text)))


def decided(attrs: Any, isa: Isa) -> tuple[Isa, int]:
    """Return the row by which an operator is lowered, and its width, 0 for the rule's.

    Parameters
    ----------
    attrs : mapping
        Attributes of the call; "form" and "width" are optional.
    """
    form = str(attrs["form"]) if "form" in attrs else ""
    width = int(attrs["width"]) if "width" in attrs else 0
    return (isa.counting(form) if form else isa), width

# SPDX-License-Identifier: Apache-2.0
"""Bulk copies of Hopper: one thread copies kibibytes that lie side by side, and others wait.

A barrier in shared memory (`mbarrier`, 8 bytes) counts the bytes that have arrived.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xnortvm.schedules.cuda import emit as e

#: Bytes of a barrier.
SIZE = 8


@dataclass
class Arrivals:
    """Barriers, each for one copy that is made once.

    Attributes
    ----------
    shared : Shared
    first : int
        The byte where the first barrier lies; a multiple of 8.
    count : int
    """

    shared: e.Shared
    first: int
    count: int

    def start(self, buffer: Any, source: Any, nbytes: int, to: int) -> None:
        """Copy an array in `count` parts of so many bytes.

        One thread does this. The others may wait behind a barrier of the block.

        Parameters
        ----------
        buffer : tirx.Buffer
            Of 32-bit words.
        source : expression
            The first word; parts lie one after the other.
        nbytes : int
            Of a part, a multiple of 16.
        to : int
            The byte of shared memory for the first part; a multiple of 16.
        """
        with e.loop("part", self.count) as part:
            e.ptx("mbarrier.init.shared.b64", self._barrier(part), e.u32(1))
        e.ptx("fence.proxy.async.shared::cta")  # copies see the barriers
        with e.loop("part", self.count) as part:
            barrier = e.let("barrier", self._barrier(part))
            e.ptx("mbarrier.arrive.expect_tx.shared.b64", barrier, e.u32(nbytes))
            e.ptx(
                "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes",
                self.shared.address(part * nbytes + to),
                e.address(e.at(buffer, source + part * (nbytes // 4))),
                e.u32(nbytes),
                barrier,
            )

    def wait(self, part: Any) -> None:
        """Wait until a part has arrived."""
        arrived = e.registers("arrived", 1)
        e.store(arrived, e.u32(0), 0)
        with e.repeat(e.load(arrived, 0).equal(e.u32(0))):
            opcode = "mbarrier.try_wait.parity.shared.b64"
            e.ptx(opcode, arrived[0], self._barrier(part), e.u32(0))

    def _barrier(self, part: Any) -> Any:
        return self.shared.address(part * SIZE + self.first)

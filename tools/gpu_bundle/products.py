# SPDX-License-Identifier: Apache-2.0
"""Products that are timed with every tile of `wgmma_gemm`, and what its model says of them.

python -m xnortvm.tools.gpu_bundle.products
python -m xnortvm.tools.gpu_bundle.products 8192 8192 8192
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda.gemm import Gemm
from xnortvm.schedules.cuda.wgmma_tile import Tile
from xnortvm.tools.gpu_bundle.roofline import CHIPS


class Product(NamedTuple):
    """A dense layer: rows, bits of each, channels."""

    rows: int
    bits: int
    columns: int

    @property
    def name(self) -> str:
        """Such as ``"gemm 4096-4096"``."""
        return f"gemm {self.bits}-{self.columns}"

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.rows * self.bits * self.columns

    @property
    def gemm(self) -> Gemm:
        """What a kernel makes of it."""
        return Gemm.of(Problem(self.rows, 1, 1, self.bits, self.columns))

    @property
    def tiles(self) -> tuple[tuple[str, Tile], ...]:
        """Those of `TILES` that a multiprocessor has room for."""
        return tuple((family, tile) for family, tile in TILES if tile.fits(self.gemm))


#: The square that other projects measured; a 1×1 convolution at 14×14 and batch 256.
PRODUCTS = (Product(4096, 4096, 4096), Product(256 * 14 * 14, 256, 1024))

#: Tiles that differ in what the model leaves open.
TILES = tuple(
    ("wgmma_gemm", tile)
    for tile in (
        *(Tile(columns, slots) for columns in (256, 192, 128) for slots in (6, 4)),
        Tile(256, 6, ordered=0),
        Tile(128, 6, ordered=0),
        Tile(64, 6),
        Tile(64, 4, blocks=2),
        Tile(64, 4, blocks=2, ordered=0),
    )
)


def render(product: Product) -> str:
    """Return what the model says of each tile, in microseconds, as Markdown."""
    chip = CHIPS["h200"]
    head = ("columns", "slots", "blocks", "in turn", "µs", "POPS", "tensor", "shared", "L2")
    lines = [
        f"{product.rows} × {product.bits} × {product.columns} bits, modelled for an {chip.name}",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for _, tile in product.tiles:
        found = tile.estimate(product.gemm)
        cells = [
            *tile[:3],
            "yes" if tile.ordered else "no",
            f"{found.total / chip.hertz * 1e6:.1f}",
        ]
        cells.append(f"{2 * product.macs * chip.hertz / found.total / 1e15:.1f}")
        cells += [f"{clocks / chip.hertz * 1e6:.1f}" for clocks in found[1:]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m xnortvm.tools.gpu_bundle.products")
    parser.add_argument("sizes", type=int, nargs="*", help="rows, bits and columns of another one")
    sizes = parser.parse_args(argv).sizes
    if len(sizes) not in (0, 3) or any(size < 1 for size in sizes):
        parser.error("name three sizes: rows, bits and columns")
    products = [Product(*sizes)] if sizes else PRODUCTS
    print("\n\n".join(map(render, products)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

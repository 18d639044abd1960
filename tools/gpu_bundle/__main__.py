# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m xnortvm.tools.gpu_bundle``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xnortvm.errors import XnortvmError
from xnortvm.tools.gpu_bundle.layers import BATCHES
from xnortvm.tools.gpu_bundle.site import PYTHONS

if TYPE_CHECKING:
    from xnortvm.target import Target
    from xnortvm.tuning.task import Task

KINDS = ("exact", "times", "network", "tune")


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        prog="python -m xnortvm.tools.gpu_bundle",
        description="Build a folder that a machine with a GPU runs by itself: bash run.sh",
    )
    parser.add_argument("--out", type=Path, default=Path("build/gpu-bundle"))
    parser.add_argument(
        "--target",
        action="append",
        help="that models are compiled for, such as h100 or 'cuda -arch=sm_80'; may be repeated",
    )
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--kind", nargs="*", choices=KINDS, default=list(KINDS), help="of models")
    parser.add_argument("--only", default="", metavar="TEXT", help="models with it in their names")
    parser.add_argument("--python", nargs="*", default=list(PYTHONS), help="versions to support")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        from xnortvm.tools.gpu_bundle.build import TARGETS, build
        from xnortvm.tools.gpu_bundle.cases import cases
        from xnortvm.tools.gpu_bundle.tuning import key_tasks

        def tasks(target: Target) -> Iterator[Task]:
            if "tune" in args.kind:
                yield from (t for t in key_tasks(args.batch, target) if args.only in str(t.key))

        manifest = build(
            args.out,
            (c for c in cases(args.batch) if c.kind in args.kind and args.only in c.name),
            targets=args.target or TARGETS,
            batches=args.batch,
            pythons=tuple(args.python),
            tasks=tasks,
        )
    except XnortvmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(
        f"{args.out}: {size / 2**20:.1f} MiB, {len(manifest['models'])} models for "
        f"{', '.join(manifest['arches'])}, Python {', '.join(manifest['pythons'])}"
    )
    for name, why in manifest["left_out"].items():
        print(f"left out: {name}: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

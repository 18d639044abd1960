# SPDX-License-Identifier: Apache-2.0
"""``xnortvm ablation``: the scale factors compared, with a table and a plot."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from xnortvm.errors import MissingDependencyError, XnortvmError
from xnortvm.tools.outcome import Outcome

HELP = "compare the scale factors of XNOR-Net++ and XNOR-Net: accuracy over seeds, and cost"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("--data", default="digits,shapes", help="data sets, separated by commas")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="runs of each variant")
    parser.add_argument(
        "--variants",
        metavar="NAMES",
        help="such as 'real,analytic,case 4'; all but 'analytic with K' by default",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of the setting's")
    parser.add_argument("--lr", type=float, help="instead of the preset's")
    parser.add_argument("--scale-init", help="where Γ starts: ones, or analytic as the preset")
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        default="ablation",
        help="folder of ablation.json, ablation.md and ablation.svg; runs in it are not repeated",
    )
    parser.add_argument("--num-threads", type=int, default=1, metavar="N", help="of PyTorch")


def run(args: argparse.Namespace) -> Outcome:
    """Train what is missing, then write table and plot."""
    for name in ("seeds", "num_threads"):
        if getattr(args, name) < 1:
            raise XnortvmError(f"--{name.replace('_', '-')} has to be at least 1")
    try:
        torch = importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            'training needs PyTorch, which is not installed; run: pip install "xnortvm[train]"'
        ) from error
    torch.set_num_threads(args.num_threads)
    ablation = importlib.import_module("xnortvm.models.training.ablation")
    report = importlib.import_module("xnortvm.models.training.ablation_report")
    variants = _names(args.variants) if args.variants else list(ablation.USUAL)
    folder = Path(args.output)
    results = ablation.run_ablation(
        _names(args.data),
        args.seeds,
        folder,
        variants=variants,
        epochs=args.epochs,
        lr=args.lr,
        scale_init=args.scale_init,
    )
    report.write_report(results, folder, _command(args))
    return Outcome(report.as_text(results), report.as_json(results))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _command(args: argparse.Namespace) -> str:
    parts = ["xnortvm ablation"]
    if args.data != "digits,shapes":
        parts.append(f"--data {args.data}")
    if args.seeds != 5:
        parts.append(f"--seeds {args.seeds}")
    given = {name: getattr(args, name) for name in ("epochs", "lr", "scale_init")}
    parts += [f"--{k.replace('_', '-')} {v}" for k, v in given.items() if v is not None]
    if args.variants:
        parts.append(f"--variants {args.variants!r}")
    return " ".join([*parts, f"--output {args.output}"])

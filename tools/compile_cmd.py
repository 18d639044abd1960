# SPDX-License-Identifier: Apache-2.0
"""``xnortvm compile``: a model in, a library with its report out."""

from __future__ import annotations

import argparse
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from xnortvm.errors import ModelError, OutputError
from xnortvm.tools import model_arg
from xnortvm.tools.outcome import Outcome

if TYPE_CHECKING:
    from xnortvm.target import Target

HELP = "compile a model and save it, as a file for `xnortvm.load` or as a folder for a board"

_OUTPUT_HELP = (
    "file to write, or with a / at the end (or if there is such a folder) a folder: the library, "
    "example inputs with the expected outputs, and programs in C and C++"
)

_log = logging.getLogger("xnortvm.tools.compile")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    model_arg.add_arguments(parser)
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help=_OUTPUT_HELP)
    parser.add_argument(
        "--freestanding",
        action="store_true",
        help="write OUT as a folder with one object file and a C header, for programs without TVM",
    )
    parser.add_argument(
        "--prefix", help="of the names in a freestanding OUT; model unless given", metavar="NAME"
    )
    add_compile_arguments(parser)
    model_arg.add_trunk(parser)
    model_arg.add_records(parser)
    parser.add_argument("--dump-dir", metavar="DIR", help="write the module there after each phase")


def add_compile_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command that compiles takes."""
    model_arg.add_stem(parser)
    parser.add_argument("--num-threads", type=int, metavar="N", help="threads of the kernels")
    parser.add_argument(
        "--sign-zero",
        choices=["+1"],
        help="take sign(0), a true zero in PyTorch, as +1 instead of keeping it",
    )
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        help="compare the compiled model with the source model, layer by layer; done when the "
        "target is this machine, unless --no-verify is given",
    )


def run(args: argparse.Namespace) -> Outcome:
    """Compile MODEL and save it to OUT."""
    import xnortvm
    from xnortvm.target import resolve

    if model_arg.is_compiled(args.model):
        raise ModelError(f"{args.model} is compiled already; compile its .pt2 or .onnx file again")
    output = Path(args.output)
    bare = args.freestanding
    folder = bare or args.output.endswith(("/", os.sep)) or output.is_dir()
    _check_writable(output, folder)
    target = resolve(args.target, num_threads=args.num_threads)
    _check_freestanding(args, target)
    source = model_arg.find_source(args)
    _log.info("compiling %s for %s (%s)", source.name, target.name, target.isa)
    start = time.perf_counter()
    options = {
        "example_inputs": source.example_inputs,
        "num_threads": args.num_threads,
        "sign_zero": args.sign_zero,
        "stem": args.stem,
        "trunk": args.trunk,
        "verify": args.verify,
        "records": model_arg.records_of(args),
    }
    compiled = xnortvm.compile(source.model, target=args.target, dump_dir=args.dump_dir, **options)
    seconds = time.perf_counter() - start
    sizes = {}
    if bare:
        sizes = compiled.save_freestanding(output, prefix=args.prefix or "model").sizes
    elif folder:
        from xnortvm.tools.example_data import find_example

        compiled.save_folder(output, find_example(compiled, source, target, options))
    else:
        compiled.save(output)
    report = compiled.report.to_json()
    data = {
        "model": source.name,
        "output": str(output),
        "target": target.to_json(),
        "seconds": seconds,
        "verified": report.get("verification") is not None,
        "report": report,
    }
    text = f"{compiled.report}\n\nCompiled in {seconds:.1f} s (seconds) and saved to {output}."
    if bare:
        data["bytes"] = sizes
        text += "\nbytes: " + ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    return Outcome(text, data)


def _check_freestanding(args: argparse.Namespace, target: Target) -> None:
    """Refuse what has no freestanding form before it is compiled."""
    if not args.freestanding:
        if args.prefix is not None:
            raise OutputError("--prefix names what --freestanding writes; give both or neither")
        return
    from xnortvm import freestanding

    freestanding.check_target(target)
    freestanding.check_prefix(args.prefix or "model")


def _check_writable(path: Path, folder: bool) -> None:
    """Refuse an output path now, not after the minute that compiling may take."""
    parent = path.absolute().parent
    if folder:
        from xnortvm.runtime.bundle import check_folder

        check_folder(path)
    if not parent.is_dir():
        raise OutputError(f"{path} cannot be written: the folder {parent} does not exist")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{path} cannot be written: the folder {parent} is not writable")

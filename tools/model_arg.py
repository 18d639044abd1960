# SPDX-License-Identifier: Apache-2.0
"""The MODEL argument: a file, a compiled model, or a network of `xnortvm.models` by name."""

from __future__ import annotations

import argparse
import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnortvm.errors import MissingDependencyError, ModelError, TargetError, near

if TYPE_CHECKING:
    from xnortvm.runtime.module import CompiledModel
    from xnortvm.target import Target

SOURCE_SUFFIXES = (".pt2", ".onnx")


@dataclass(frozen=True)
class Source:
    """A model that is still to be compiled.

    Attributes
    ----------
    name : str
        As on the command line.
    model : torch.nn.Module or Path
        What `xnortvm.compile` takes.
    example_inputs : tuple of torch.Tensor or None
        Given for modules; files hold their own shapes.
    """

    name: str
    model: Any
    example_inputs: tuple[Any, ...] | None = None


def add_arguments(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add MODEL, the options of networks by name, and ``--target``."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?" if optional else None,
        help="a .pt2 or .onnx file, a compiled model, or a network by name, such as resnet18",
    )
    network = parser.add_argument_group("networks by name (random parameters)")
    network.add_argument("--scale", help="shape of the scale factor Γ, such as case4 or channel")
    network.add_argument("--input-size", type=int, metavar="PIXELS", help="height and width")
    network.add_argument("--batch", type=int, default=1, help="images in a call")
    network.add_argument("--seed", type=int, default=0, help="of the random parameters")
    add_target(parser)


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add ``--target``."""
    parser.add_argument(
        "--target",
        default="llvm",
        help='"llvm" is this machine; "llvm -mcpu=cortex-a72", "cuda -arch=sm_90", or a preset '
        "that `xnortvm targets` lists",
    )


def host_target(args: argparse.Namespace) -> Target:
    """Resolve ``--target`` for timing, and refuse a foreign one before anything is compiled."""
    from xnortvm.target import resolve

    target = resolve(args.target, num_threads=args.num_threads)
    if not target.is_host:
        raise TargetError(
            f"code for {target.name} cannot be timed here, this machine cannot run it; "
            "leave --target out, or run `xnortvm bench` on such a machine"
        )
    return target


def add_records(parser: argparse.ArgumentParser) -> None:
    """Add the option that names tuning records."""
    parser.add_argument(
        "--records",
        metavar="PLACE",
        help="tuning records: a .jsonl file or a folder; off: every kernel by its rule",
    )


def records_of(args: argparse.Namespace) -> str | bool | None:
    """Return what `xnortvm.compile` takes as records."""
    place: str | None = args.records
    return False if place == "off" else place


def add_stem(parser: argparse.ArgumentParser) -> None:
    """Add ``--stem``."""
    parser.add_argument(
        "--stem",
        default="exact",
        metavar="METHOD",
        help="how the first float convolutions are computed: exact, winograd (fp32 with fewer "
        "products), or rounded to bf16 or int8; the report states the error",
    )


def add_trunk(parser: argparse.ArgumentParser) -> None:
    """Add ``--trunk``."""
    parser.add_argument(
        "--trunk",
        default="fp32",
        metavar="FORMAT",
        help="how floats between kernels of binary layers lie in a GPU's memory: fp32, or fp16, "
        "which rounds each by at most 2^-11 of itself when it is stored",
    )


def is_compiled(name: str) -> bool:
    """Say whether MODEL names a model that `CompiledModel.save` wrote."""
    path = Path(name)
    return path.suffix.lower() not in SOURCE_SUFFIXES and (
        path.suffix.lower() == ".xnor" or (path.exists() and not _is_network(name))
    )


def load_compiled(name: str) -> CompiledModel:
    """Load a compiled model."""
    import xnortvm

    return xnortvm.load(name)


def find_source(args: argparse.Namespace) -> Source:
    """Find the model that MODEL names.

    Raises
    ------
    ModelError
        When there is no such file and no network of that name, or options do not fit.
    """
    name: str = args.model
    if Path(name).suffix.lower() in SOURCE_SUFFIXES:
        return Source(name, Path(name))
    if not _is_network(name):
        raise ModelError(_unknown(name))
    if args.batch < 1:
        raise ModelError(f"--batch={args.batch} is not a number of images; give at least 1")
    return _build(args)


def _build(args: argparse.Namespace) -> Source:
    models = _models()
    options = {"scale": args.scale, "input_size": args.input_size}
    try:
        model = models.build(args.model, seed=args.seed, **options)
    except (ValueError, TypeError) as error:
        raise ModelError(f"the network {args.model!r} cannot be built: {error}") from error
    return Source(args.model, model, (models.random_input(model, batch=args.batch),))


def _unknown(name: str) -> str:
    if os.sep in name or Path(name).suffix:
        kinds = ", ".join(SOURCE_SUFFIXES)
        return f"{name} is not a model: there is no such file, or it is none of {kinds}, .xnor"
    networks = list(_models().MODELS)
    return (
        f"{name!r} is neither a file nor a network{near(name, networks)}; "
        f"networks are {', '.join(networks)}"
    )


def _is_network(name: str) -> bool:
    try:
        return name in _models().MODELS
    except MissingDependencyError:
        if os.sep in name or Path(name).suffix:
            return False
        raise


def _models() -> Any:
    try:
        return importlib.import_module("xnortvm.models")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingDependencyError(
            "networks by name need PyTorch, which is not installed; "
            'run: pip install "xnortvm[torch]"'
        ) from error

# SPDX-License-Identifier: Apache-2.0
"""``xnortvm bench MODEL``: a compiled model, beside other engines that run the same model."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xnortvm.errors import ModelError
from xnortvm.tools import contest, model_arg, peers
from xnortvm.tools.outcome import Outcome

if TYPE_CHECKING:
    from xnortvm.runtime.module import CompiledModel

_log = logging.getLogger("xnortvm.tools.bench")


def run(args: argparse.Namespace) -> Outcome:
    """Time the model and the peers that ``--against`` names.

    A peer that is not installed or cannot express the model is named with the reason. One whose
    output is wrong is not timed and makes the exit status 1.
    """
    names = peers.chosen(args.against)
    pythons = peers.interpreters(args.peer_python)
    compiled, source = compiled_model(args, names)
    inputs = example_inputs(compiled, source)
    expected = None
    if args.stem != "exact" and source is not None:
        expected = contest.outputs_of(_compile(source, args, "exact"), inputs)
    held = contest.hold(
        compiled,
        source,
        inputs,
        names,
        num_threads=args.num_threads,
        isa=compiled.report.isa,
        target=args.target,
        repeats=args.repeats,
        pythons=pythons,
        expected=expected,
    )
    profile = compiled.profile(inputs) if args.profile else None
    data = {
        "model": args.model,
        "batch": len(inputs[0]) if inputs and inputs[0].ndim else 1,
        "target": compiled.target_name,
        "isa": compiled.report.isa,
        "stem": args.stem,
        "num_threads": args.num_threads,
        **held.to_json(),
        "profile": profile.to_json() if profile else None,
    }
    threads = "1 thread" if args.num_threads == 1 else f"{args.num_threads} threads"
    stem = "" if args.stem == "exact" else f", stem {args.stem}"
    text = f"{args.model}, batch {data['batch']}, for {compiled.target_name}, {threads}{stem}"
    text += f"\n\n{held}"
    return Outcome(f"{text}\n\n{profile}" if profile else text, data, status=int(bool(held.wrong)))


def compiled_model(
    args: argparse.Namespace, names: Sequence[str] = ()
) -> tuple[CompiledModel, model_arg.Source | None]:
    """Return the compiled model, and what it was compiled from where that is known."""
    if model_arg.is_compiled(args.model):
        if names:
            raise ModelError(
                f"{args.model} is compiled, other engines cannot run it; "
                "name the .pt2 or .onnx file that it was compiled from"
            )
        return model_arg.load_compiled(args.model), None
    target = model_arg.host_target(args)
    source = model_arg.find_source(args)
    if not isinstance(source.model, Path):
        from xnortvm.models import freeze_

        freeze_(source.model)  # or float engines would compute sign(W) in every call
    _log.info("compiling %s for %s (%s)", source.name, target.name, target.isa)
    return _compile(source, args, args.stem), source


def _compile(source: model_arg.Source, args: argparse.Namespace, stem: str) -> CompiledModel:
    import xnortvm

    return xnortvm.compile(
        source.model,
        target=args.target,
        example_inputs=source.example_inputs,
        dynamic_batch=args.batch > 1,  # one image after the other, which is the fastest for several
        num_threads=args.num_threads,
        stem=stem,
        verify=False,
        records=model_arg.records_of(args),
    )


def example_inputs(compiled: CompiledModel, source: model_arg.Source | None) -> list[Any]:
    """Return NumPy inputs: those of the network, else random ones of the right shape."""
    if source is not None and source.example_inputs is not None:
        return [value.numpy() for value in source.example_inputs]
    random = np.random.default_rng(0)
    return [
        np.asarray(random.standard_normal(spec.of_batch(1))).astype(spec.dtype)
        for spec in compiled.inputs
    ]

# SPDX-License-Identifier: Apache-2.0
"""What ``trunk="fp16"`` does to the outputs of a network, in NumPy with the kernels' rounding.

    python -m xnortvm.tools.trunk_error resnet18 --size 64 --images 8
    python -m xnortvm.tools.trunk_error run/model.safetensors --data shapes --images 200

A network by name has random weights and inputs; a checkpoint of ``xnortvm train`` is given test
images of its data, and the classes that are right are counted, too.

The network is evaluated with its trunk in fp32 and in fp16: what differs, of the largest output,
and how many of the signs that packed layers read. A sign that lies within rounding of 0 may be
taken differently, and everything behind it is then another number; so the difference is also given
for the signs of the fp32 run, where rounding alone is left.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from xnortvm import api, models
from xnortvm._tvm import IRModule
from xnortvm.errors import XnortvmError
from xnortvm.graph.dataflow import op_name
from xnortvm.models.training import load_data
from xnortvm.ops import unpack
from xnortvm.transform.group import PACKS
from xnortvm.transform.half_trunk import halve_trunk
from xnortvm.verify.interpreter import Interpreter

Array = np.ndarray[Any, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m xnortvm.tools.trunk_error")
    parser.add_argument("model", help="a network by name, or a checkpoint of xnortvm train")
    parser.add_argument("--data", default="digits", help="whose test images a checkpoint is given")
    parser.add_argument("--size", type=int, help="of the image, in place of the network's own")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="of random weights and inputs")
    args = parser.parse_args(argv)
    try:
        network, image, labels = _random(args) if args.model in models.MODELS else _trained(args)
    except XnortvmError as error:
        parser.error(str(error))
    graph = api.lower(network, example_inputs=image)
    print(json.dumps(compared(graph, [image.numpy()], labels)))
    return 0


def _random(args: argparse.Namespace) -> tuple[Any, Any, None]:
    options = {"input_size": args.size} if args.size else {}
    network = models.build(args.model, **options).eval()
    models.randomize_(network, seed=args.seed)
    return network, models.random_input(network, batch=args.images, seed=args.seed), None


def _trained(args: argparse.Namespace) -> tuple[Any, Any, Array]:
    test = load_data(args.data, input_size=args.size).test
    chosen = torch.arange(min(args.images, len(test.labels)))
    return models.load(args.model), test.batch(chosen, None), test.labels[chosen].numpy()


def compared(graph: IRModule, inputs: list[Array], labels: Array | None = None) -> dict[str, Any]:
    """Return how far the outputs and signs of a network are from those with a trunk in fp32."""
    halved, stored = halve_trunk(graph)
    right, signs, _ = evaluated(graph, inputs)
    free, taken, total = evaluated(halved, inputs)
    same, _, _ = evaluated(halved, inputs, signs)
    largest = float(np.abs(right).max())
    outputs = {"fp32": right, "fp16": free}
    correct = (
        {}
        if labels is None
        else {
            f"right_with_{name}": int((logits.argmax(-1) == labels).sum())
            for name, logits in outputs.items()
        }
    )
    return {
        "tensors": len(stored),
        "signs": total,
        "signs_that_differ": sum(
            int(np.bitwise_count(a ^ b).sum()) for a, b in zip(signs, taken, strict=True)
        ),
        "largest_difference": float(np.abs(free - right).max()) / largest,
        "on_the_same_signs": float(np.abs(same - right).max()) / largest,
        "same_top_1": int((free.argmax(-1) == right.argmax(-1)).sum()),
        **correct,
        "of": len(right),
    }


def evaluated(
    graph: IRModule, inputs: list[Array], signs: list[Array] | None = None
) -> tuple[Array, list[Array], int]:
    """Return the first output, the packed signs in order, and how many there are.

    With `signs`, those are taken in place of the ones that are found.
    """
    interpreter = Interpreter(graph["main"])
    found: list[Array] = []
    total = 0

    def seen(var: Any, value: Any) -> Any:
        nonlocal total
        call = interpreter.graph.value.get(var)
        if op_name(call) not in PACKS:
            return value
        found.append(value)
        total += unpack(value, *_channels(interpreter, call)).size
        return value if signs is None else signs[len(found) - 1]

    params = dict(zip(interpreter.graph.params, inputs, strict=True))
    (output,) = interpreter.run(params, [interpreter.graph.result], seen=seen)
    return (output[0] if isinstance(output, tuple) else output), found, total


def _channels(interpreter: Interpreter, call: Any) -> tuple[int, int]:
    shape = interpreter.shape({}, call.args[0]) or (0,)
    return shape[-1], int(call.attrs["groups"])


if __name__ == "__main__":
    raise SystemExit(main())

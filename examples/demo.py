# SPDX-License-Identifier: Apache-2.0
"""The main job, end to end: a PyTorch XNOR-Net++ ResNet-18 becomes packed code for this machine.

Compiles the network (224×224, Γ = α ⊗ β ⊗ γ for every channel, row and column; first convolution,
downsampling convolutions and classifier real-valued, as in the paper), checks it against PyTorch,
prints the report, and times it beside PyTorch and ONNX Runtime on one thread.

Run it with ``make demo``.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings

import digits
import torch

import xnortvm
from xnortvm.models import build, freeze_, random_input
from xnortvm.tools import contest
from xnortvm.tools.model_arg import Source

IMAGES = 4


def main() -> int:
    """Run the demonstration; the exit status is 0 when every check holds."""
    log = logging.getLogger("xnortvm")
    log.addHandler(logging.StreamHandler(sys.stdout))
    log.setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)
    model = build("resnet18", scale="channel×height×width")
    image = random_input(model)

    start = time.perf_counter()
    compiled = xnortvm.compile(model, example_inputs=(image,))
    print(f"compiled and verified in {time.perf_counter() - start:.1f} s")

    print(f"\n{compiled.report}\n")
    agreed = _same_top1(model, compiled)
    _race(model, image, compiled)
    print("\nhandwritten digits, with the checkpoint that is shipped:")
    return digits.main() if agreed else 1


def _same_top1(model: torch.nn.Module, compiled: xnortvm.CompiledModel) -> bool:
    """Compare with PyTorch eager on several images."""
    same = 0
    for seed in range(IMAGES):
        image = random_input(model, seed=seed)
        with torch.inference_mode():
            expected = model(image)
        actual = compiled(image)
        error = float((actual - expected).abs().max() / expected.abs().max())
        same += int(actual.argmax() == expected.argmax())
        print(
            f"image {seed}: class {int(actual.argmax())}, PyTorch {int(expected.argmax())}, "
            f"largest difference {error:.1e} of the largest logit"
        )
    print(f"top-1 equal on {same} of {IMAGES} images\n")
    return same == IMAGES


def _race(model: torch.nn.Module, image: torch.Tensor, compiled: xnortvm.CompiledModel) -> None:
    """Time the engines in turns, one thread, pinned to one core."""
    source = Source("resnet18", freeze_(model), (image,))
    print(contest.hold(compiled, source, [image.numpy()], ["torch", "onnxruntime"]))


if __name__ == "__main__":
    sys.exit(main())

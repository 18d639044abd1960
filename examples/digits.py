# SPDX-License-Identifier: Apache-2.0
"""A trained network, from the checkpoint to machine code: does it still read digits?

Loads the network that comes with the package (case 4: Γ = α ⊗ β ⊗ γ, trained by ``xnortvm train``),
compiles it for this machine, and classifies scikit-learn's digits that it has not seen, by PyTorch
and by the compiled code.
"""

from __future__ import annotations

import sys
import time

import torch

import xnortvm
from xnortvm.models import CHECKPOINTS, binary_layers, load
from xnortvm.models.training import load_data


def main() -> int:
    """Run the example; the exit status is 0 when both agree on every image."""
    model = load(CHECKPOINTS / "digits")
    test = load_data("digits").test
    labels = test.labels
    images = test.batch(torch.arange(len(labels)), None)

    start = time.perf_counter()
    compiled = xnortvm.compile(model, example_inputs=(images[:1],))
    print(f"compiled and verified in {time.perf_counter() - start:.1f} s")
    print(f"{compiled.report.num_binary_ops} of {len(binary_layers(model))} binary layers lowered")

    with torch.inference_mode():
        expected = torch.cat([model(image[None]) for image in images]).argmax(1)
    actual = torch.cat([torch.as_tensor(compiled(image[None])) for image in images]).argmax(1)
    for engine, classes in (("PyTorch", expected), ("compiled", actual)):
        right = int((classes == labels).sum())
        print(f"{engine:8}  {100 * right / len(labels):.2f} %  ({right} of {len(labels)} digits)")
    same = int((expected == actual).sum())
    print(f"the same answer for {same} of {len(labels)} images")
    lowered = compiled.report.num_binary_ops == len(binary_layers(model))
    return 0 if same == len(labels) and lowered else 1


if __name__ == "__main__":
    sys.exit(main())

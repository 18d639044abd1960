# SPDX-License-Identifier: Apache-2.0
"""``python -m xnortvm.tools.train`` is ``xnortvm train``; ``torchrun -m`` takes this name."""

from __future__ import annotations

import sys

from xnortvm.tools.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

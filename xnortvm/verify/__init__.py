# SPDX-License-Identifier: Apache-2.0
"""Compare the compiled model with the source model, layer by layer, on real data.

Three comparisons, each on the data of the compiled run itself, so that the first thing that is
wrong is found and named:

1. *kernels*: what every kernel of the library read and made against NumPy (`kernels`);
2. *passes*: the lowered model, evaluated in NumPy on the signs that the compiled code saw, against
   the compiled outputs (`replay`);
3. *import*: the source model in its own framework, cut at the binary layers and run on the same
   signs, against both (`source`).
"""

from __future__ import annotations

from xnortvm.verify.expose import Exposed, drop, expose
from xnortvm.verify.source import Lowered, verify

__all__ = ["Exposed", "Lowered", "drop", "expose", "verify"]

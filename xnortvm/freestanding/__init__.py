# SPDX-License-Identifier: Apache-2.0
"""A compiled model as one object file with a C header: no TVM, no heap, no threads, no state.

The kernels are those of the ordinary library. `kernels` takes the argument checks of TVM's calling
convention off them, `plan` puts every tensor into one workspace, `entry` adds the function that
calls them and the weights, `object_file` looks at what came out, and `export` writes the folder.
"""

from xnortvm.freestanding.export import (
    ALIGNMENT,
    Freestanding,
    check_interface,
    check_prefix,
    check_target,
    make,
)
from xnortvm.freestanding.samples import sample_inputs

__all__ = [
    "ALIGNMENT",
    "Freestanding",
    "check_interface",
    "check_prefix",
    "check_target",
    "make",
    "sample_inputs",
]

# SPDX-License-Identifier: Apache-2.0
"""xnortvm: packed XNOR-popcount code for binary neural networks, on Apache TVM.

``import xnortvm`` is cheap: neither TVM nor PyTorch is loaded before something is used.

Examples
--------
>>> import xnortvm
>>> compiled = xnortvm.compile(module, example_inputs=(image,))  # doctest: +SKIP
>>> print(compiled.report)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from xnortvm.errors import XnortvmError

if TYPE_CHECKING:
    from xnortvm.api import compile, explain, load
    from xnortvm.runtime.module import CompiledModel
    from xnortvm.target import targets
    from xnortvm.tuning.api import tune

# In a source tree schedules/, models/ and tools/ lie beside this package; in a wheel inside it.
_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if os.path.exists(os.path.join(_root, "schedules", "__init__.py")):
    __path__.append(_root)

__version__ = "0.1.0"

__all__ = [
    "CompiledModel",
    "XnortvmError",
    "__version__",
    "compile",
    "explain",
    "load",
    "targets",
    "tune",
]

_LAZY = {
    "compile": "xnortvm.api",
    "explain": "xnortvm.api",
    "load": "xnortvm.runtime.load",
    "targets": "xnortvm.target",
    "tune": "xnortvm.tuning.api",
    "CompiledModel": "xnortvm.runtime.module",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'xnortvm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

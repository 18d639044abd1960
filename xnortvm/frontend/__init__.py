# SPDX-License-Identifier: Apache-2.0
"""Front ends: PyTorch, ONNX and Relax models to one Relax function with constant parameters."""

from __future__ import annotations

from xnortvm.frontend.imported import Imported
from xnortvm.frontend.importer import import_model

__all__ = ["Imported", "import_model"]

# SPDX-License-Identifier: Apache-2.0
"""One network for all ways of import."""

from __future__ import annotations

import pytest
import torch

from tests.frontend.nets import net


@pytest.fixture(scope="module")
def model():
    """A network, its input, and what eager PyTorch makes of it."""
    module, x = net()
    with torch.no_grad():
        return module, x, module(x)

# SPDX-License-Identifier: Apache-2.0
"""What packed layers compute: operators, layouts, references, and their lowering to TIR.

Importing this package registers the operators ``relax.xnortvm.*``.
"""

from __future__ import annotations

from xnortvm.ops.affine import affine
from xnortvm.ops.bconv2d import bconv2d
from xnortvm.ops.bdense import bdense
from xnortvm.ops.bitpack import bitpack, threshold_pack
from xnortvm.ops.bmaxpool2d import bmaxpool2d
from xnortvm.ops.bsum2d import bsum2d
from xnortvm.ops.clamp import clamp
from xnortvm.ops.layout import (
    WORD,
    BorderClasses,
    border_base,
    border_classes,
    output_size,
    pack,
    pack_weights,
    unpack,
    unpack_weights,
    words,
)
from xnortvm.ops.legalize import legalize_map
from xnortvm.ops.sign import sign

__all__ = [
    "WORD",
    "BorderClasses",
    "affine",
    "bconv2d",
    "bdense",
    "bitpack",
    "bmaxpool2d",
    "border_base",
    "border_classes",
    "bsum2d",
    "clamp",
    "legalize_map",
    "output_size",
    "pack",
    "pack_weights",
    "sign",
    "threshold_pack",
    "unpack",
    "unpack_weights",
    "words",
]

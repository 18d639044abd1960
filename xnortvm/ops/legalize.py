# SPDX-License-Identifier: Apache-2.0
"""How operators become TIR for one instruction set."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from xnortvm.ops.affine import NAME as AFFINE
from xnortvm.ops.affine import legalize as legalize_affine
from xnortvm.ops.bconv2d import NAME as BCONV2D
from xnortvm.ops.bconv2d import legalize as legalize_bconv2d
from xnortvm.ops.bdense import NAME as BDENSE
from xnortvm.ops.bdense import legalize as legalize_bdense
from xnortvm.ops.bitpack import NAME as BITPACK
from xnortvm.ops.bitpack import THRESHOLD_NAME as THRESHOLD_PACK
from xnortvm.ops.bitpack import legalize as legalize_bitpack
from xnortvm.ops.bitpack import legalize_threshold as legalize_threshold_pack
from xnortvm.ops.bmaxpool2d import NAME as BMAXPOOL2D
from xnortvm.ops.bmaxpool2d import legalize as legalize_bmaxpool2d
from xnortvm.ops.bsum2d import NAME as BSUM2D
from xnortvm.ops.bsum2d import legalize as legalize_bsum2d
from xnortvm.ops.clamp import NAME as CLAMP
from xnortvm.ops.clamp import legalize as legalize_clamp
from xnortvm.ops.conv2d import NAME as CONV2D
from xnortvm.ops.conv2d import legalize as legalize_conv2d
from xnortvm.ops.dense import NAME as DENSE
from xnortvm.ops.dense import legalize as legalize_dense
from xnortvm.ops.max_pool2d import NAME as MAX_POOL2D
from xnortvm.ops.max_pool2d import legalize as legalize_max_pool2d
from xnortvm.ops.sign import NAME as SIGN
from xnortvm.ops.sign import legalize as legalize_sign
from xnortvm.ops.stem_conv2d import NAME as STEM_CONV2D
from xnortvm.ops.stem_conv2d import legalize as legalize_stem_conv2d

if TYPE_CHECKING:
    from xnortvm.schedules.isa import Isa


def legalize_map(isa: Isa) -> dict[str, Callable[[Any, Any], Any]]:
    """Return the argument ``customize_legalize_map`` of ``relax.transform.LegalizeOps``.

    It holds the packed operators, and the float convolution and dense layer with constant
    weights, whose weights are blocked for the lanes of ``isa``.
    """
    own = {MAX_POOL2D: legalize_max_pool2d} if isa.name == "neon" else {}
    return {
        **own,
        AFFINE: legalize_affine,
        SIGN: legalize_sign,
        BITPACK: partial(legalize_bitpack, isa=isa),
        THRESHOLD_PACK: partial(legalize_threshold_pack, isa=isa),
        BCONV2D: partial(legalize_bconv2d, isa=isa),
        BDENSE: partial(legalize_bdense, isa=isa),
        BMAXPOOL2D: legalize_bmaxpool2d,
        BSUM2D: legalize_bsum2d,
        CLAMP: legalize_clamp,
        CONV2D: partial(legalize_conv2d, isa=isa),
        STEM_CONV2D: partial(legalize_stem_conv2d, isa=isa),
        DENSE: partial(legalize_dense, isa=isa),
    }

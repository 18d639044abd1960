# SPDX-License-Identifier: Apache-2.0
"""What every import ends with, whatever the model came from."""

from __future__ import annotations

from xnortvm._tvm import IRModule, relax, relax_transform
from xnortvm.errors import UnsupportedOperatorError
from xnortvm.frontend.fold import fold_constants
from xnortvm.frontend.simplify import simplify


def finish(mod: IRModule) -> IRModule:
    """Fold and simplify an imported module.

    Parameters
    ----------
    mod : IRModule
        As TVM's importers leave it.

    Returns
    -------
    IRModule
        One dataflow block, no two calls that compute the same, nothing unused.

    Raises
    ------
    UnsupportedOperatorError
        If the model's path depends on its input.
    """
    blocks = mod["main"].body.blocks
    if len(blocks) != 1 or not isinstance(blocks[0], relax.DataflowBlock):
        raise UnsupportedOperatorError(
            "the model branches or loops on computed values (cond, If, while), and a compiled "
            "model has one path; use where() instead, or fix the branch before the export"
        )
    if any(isinstance(binding, relax.MatchCast) for binding in blocks[0].bindings):
        raise UnsupportedOperatorError(
            "the model makes a tensor whose size depends on values (indexing by a boolean mask, "
            "nonzero), and a compiled model has fixed shapes; use where() instead"
        )
    mod = fold_constants(mod)
    mod = simplify(mod)
    mod = relax_transform.EliminateCommonSubexpr()(mod)
    return relax_transform.CanonicalizeBindings()(mod)

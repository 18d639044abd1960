# SPDX-License-Identifier: Apache-2.0
"""A folder that a machine with a GPU runs by itself: what the chip can do, and what we make of it.

    python -m xnortvm.tools.gpu_bundle --out build/gpu-bundle

`parts/` travels: it needs Python there, and says in one sentence what else it misses.
"""

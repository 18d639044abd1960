# SPDX-License-Identifier: Apache-2.0
"""Relax passes, one concept per file; `xnortvm.pipeline` puts them in order."""

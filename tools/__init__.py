# SPDX-License-Identifier: Apache-2.0
"""The ``xnortvm`` command: one file per sub-command, installed as ``xnortvm.tools``."""

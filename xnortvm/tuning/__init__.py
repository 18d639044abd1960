# SPDX-License-Identifier: Apache-2.0
"""Tuning: measure other decisions than the rules' and keep the best; see docs/tuning.md."""

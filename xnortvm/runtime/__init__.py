# SPDX-License-Identifier: Apache-2.0
"""From a scheduled module to something that runs: build, call, measure, save, load."""

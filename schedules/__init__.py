# SPDX-License-Identifier: Apache-2.0
"""How kernels are computed: one rule per operator and instruction set."""

# SPDX-License-Identifier: Apache-2.0
"""Kernels for CUDA: templates that compute the sum, and what is fused behind it as expressions."""

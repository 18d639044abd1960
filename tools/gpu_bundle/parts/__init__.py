# SPDX-License-Identifier: Apache-2.0
"""What travels to the machine with the GPU: Python files that need nothing but Python there."""

# SPDX-License-Identifier: Apache-2.0
"""Reading a Relax dataflow function: who computes what, and what chains of operators do."""

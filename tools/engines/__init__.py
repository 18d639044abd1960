# SPDX-License-Identifier: Apache-2.0
"""Other engines, each run in a process of its own by `xnortvm.tools.peer_process`.

Nothing here imports xnortvm: the process may be another Python, with other packages. A module of
this package is one engine; it has ``prepare(job) -> Engine`` and imports its engine only there.
"""

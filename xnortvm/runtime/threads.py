# SPDX-License-Identifier: Apache-2.0
"""How many threads TVM's pool uses, without leaving marks on the process.

Kernels of a model compiled for one thread never touch the pool. TVM keeps one pool per calling
thread; setting it up binds the *calling* thread to one core, which would slow everything else
that the process does, so binding is switched off for that moment and the affinity is put back.

TVM runs parallel loops on one thread where it believes to have one core, and it believes in half
of the logical ones (hyper-threading), so on a two-core machine nothing would ever be parallel. A
list of cores in the call overrules that; with binding off only its length matters.
"""

from __future__ import annotations

import os
import threading

from xnortvm._tvm_runtime import tvm_ffi

_BIG_CORES = 1
_current = threading.local()


def use_threads(count: int) -> None:
    """Make TVM's pool of the calling thread run parallel loops on `count` threads."""
    if count <= 1 or getattr(_current, "count", None) == count:
        return
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    before = os.environ.get("TVM_BIND_THREADS")
    os.environ["TVM_BIND_THREADS"] = "0"
    configure = tvm_ffi.get_global_func("runtime.config_threadpool")
    try:
        # The first call makes the pool as large as it can ever be, the second uses a part of it.
        for size in (max(count, os.cpu_count() or 1), count):
            configure(_BIG_CORES, size, [str(core) for core in range(size)])
    finally:
        if before is None:
            del os.environ["TVM_BIND_THREADS"]
        else:
            os.environ["TVM_BIND_THREADS"] = before
        if affinity is not None:
            os.sched_setaffinity(0, affinity)
    _current.count = count

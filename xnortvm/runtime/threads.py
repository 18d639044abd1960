# SPDX-License-Identifier: Apache-2.0
"""How many threads TVM's pool uses, without leaving marks on the process.

Kernels of a model compiled for one thread never touch the pool. TVM keeps one pool per calling
thread; setting it up binds the *calling* thread to one core, which would slow everything else
that the process does, so binding is switched off for that moment and the affinity is put back.
"""

from __future__ import annotations

import os
import threading

from xnortvm._tvm import tvm_ffi

_BIG_CORES = 1
_current = threading.local()


def use_threads(count: int) -> None:
    """Make TVM's pool of the calling thread run parallel loops on `count` threads."""
    if count <= 1 or getattr(_current, "count", None) == count:
        return
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    before = {name: os.environ.get(name) for name in ("TVM_BIND_THREADS", "TVM_NUM_THREADS")}
    os.environ["TVM_BIND_THREADS"] = "0"
    os.environ.setdefault("TVM_NUM_THREADS", str(max(count, os.cpu_count() or 1)))
    try:
        tvm_ffi.get_global_func("runtime.config_threadpool")(_BIG_CORES, count)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if affinity is not None:
            os.sched_setaffinity(0, affinity)
    _current.count = count

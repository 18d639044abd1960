# SPDX-License-Identifier: Apache-2.0
"""A worker in which some candidates crash the compiler, hang, or compute something else.

The candidates are real, and so is everything else; only what goes wrong is arranged, by the number
of columns of the tile.
"""

from __future__ import annotations

import os
import signal
import time

from xnortvm.tuning import worker

real = dict(worker.COMMANDS)


def build(message):
    columns = message["decisions"]["tile"][1]
    if columns == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    if columns == 2:
        time.sleep(600)
    return real["build"](message)


def measure(message):
    answer = real["measure"](message)
    path = os.path.join(message["folder"], "kernel.so")
    if os.path.getsize(path) and "c3" in message["folder"]:
        answer["digest"] = "something else"
    return answer


worker.COMMANDS.update(build=build, measure=measure)

if __name__ == "__main__":
    worker.main()

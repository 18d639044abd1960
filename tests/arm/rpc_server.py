# SPDX-License-Identifier: Apache-2.0
"""TVM's RPC server in the emulator: `python rpc_server.py WRAPPER ARGUMENTS…`.

It starts sessions as processes of ``sys.executable``, which the kernel cannot execute; WRAPPER is
a script that starts the same Python in the emulator.
"""

import runpy
import sys

sys.executable = sys.argv[1]
sys.argv = ["rpc_server", *sys.argv[2:]]
runpy.run_module("tvm.exec.rpc_server", run_name="__main__")

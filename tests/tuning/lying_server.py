# SPDX-License-Identifier: Apache-2.0
"""TVM's RPC server on a board that is broken: `python lying_server.py --lie clock|outputs …`.

All is TVM's own but one function of its session: the clock of the one has stopped, the other loads
libraries that compute nothing.
"""

from __future__ import annotations

import argparse
import os
import struct
from pathlib import Path

STOPPED = struct.pack("d", float("nan"))


def clock() -> None:
    """Time calls with a clock that knows no numbers."""
    import tvm_ffi

    @tvm_ffi.register_global_func("runtime.RPCTimeEvaluator", override=True)
    def _evaluator(_mod, _name, _type, _id, _number, repeat, *_):
        return tvm_ffi.convert(lambda *_: STOPPED * repeat)


def outputs() -> None:
    """Load a library that writes nothing for all but the rule's, which is sent first."""
    from tvm.rpc import server

    real, first = server._load_module, []

    def load(path):
        if not first:
            first.append(Path(path).read_bytes())
        is_right = Path(path).read_bytes() == first[0]
        return real(path if is_right else os.environ["WRONG_LIBRARY"])

    server._load_module = load


LIES = {"clock": clock, "outputs": outputs}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("lie", "host", "tracker", "key"):
        parser.add_argument(f"--{name}")
    for name in ("port", "port-end"):
        parser.add_argument(f"--{name}", type=int)
    given = vars(parser.parse_args())
    from tvm import rpc

    host, port = given.pop("tracker").split(":")
    lie = LIES[given.pop("lie")]
    server = rpc.Server(**given, tracker_addr=(host, int(port)), server_init_callback=lie)
    server.proc.join()


if __name__ == "__main__":
    main()
